#if os(Linux)
import CNetlink
import Libc

/// A netlink socket for the routing of this network namespace.
struct RouteSocket: ~Copyable {
    private let descriptor: CInt

    private static let pieceSize = 64 * 1_024
    /// More rules than any namespace has. †
    private static let rulesAtMost = 65_536

    init() throws(DiversionError) {
        self.descriptor = kl_netlink_open(NETLINK_ROUTE)
        guard self.descriptor >= 0 else { throw Self.error(errno) }
    }

    deinit { close(self.descriptor) }

    /// - Returns: 0, or an errno code.
    func run(_ message: RouteMessage) -> CInt {
        do throws(DiversionError) {
            return try self.ask(message) { _, _ in true }
        } catch {
            return EIO
        }
    }

    func rules(_ family: CInt) throws(DiversionError) -> [RouteRule] {
        var rules: [RouteRule] = []
        try self.list(.rules(family)) { type, content in
            if type == RouteMessage.newRule, let rule = RouteRule(content) { rules.append(rule) }
            return rules.count < Self.rulesAtMost
        }
        return rules
    }

    /// Passes each message of the answer to `body` until `body` returns false.
    func list(
        _ message: RouteMessage,
        _ body: (UInt16, UnsafeRawBufferPointer) -> Bool
    ) throws(DiversionError) {
        let code = try self.ask(message, body)
        guard code == 0 else { throw Self.error(code) }
    }

    /// Passes each message of the answer to `body` until `body` returns false.
    ///
    /// - Returns: the code that ended it.
    private func ask(
        _ message: RouteMessage,
        _ body: (UInt16, UnsafeRawBufferPointer) -> Bool
    ) throws(DiversionError) -> CInt {
        let bytes = message.bytes(number: 1)
        let sent = bytes.withUnsafeBytes { send(self.descriptor, $0.baseAddress, $0.count, 0) }
        guard sent == bytes.count else { throw Self.error(sent < 0 ? errno : EMSGSIZE) }
        var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                throw Self.error(count == 0 ? EPIPE : errno)
            }
            let end = buffer.withUnsafeBytes { bytes in
                NetlinkMessages.walk(UnsafeRawBufferPointer(rebasing: bytes[..<count]), body)
            }
            if let end { return end }
        }
    }

    private static func error(_ code: CInt) -> DiversionError {
        DiversionError("The kernel's routing (rtnetlink) can't be asked: \(String(cString: strerror(code))).")
    }
}
#endif
