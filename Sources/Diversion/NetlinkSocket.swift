#if os(Linux)
import Libc
import CNetlink

/// Asks the kernel one question at a time.
struct NetlinkSocket: ~Copyable {
    private let descriptor: CInt
    private let subject: String

    private static let pieceSize = 64 * 1_024

    /// - Parameter subject: how an error's sentence begins.
    init(_ family: CInt, about subject: String) throws(DiversionError) {
        self.subject = subject
        self.descriptor = kl_netlink_open(family)
        guard self.descriptor >= 0 else { throw self.error("can't be asked", errno) }
    }

    deinit { close(self.descriptor) }

    func send(_ bytes: [UInt8]) throws(DiversionError) {
        let sent = bytes.withUnsafeBytes { Glibc.send(self.descriptor, $0.baseAddress, $0.count, 0) }
        guard sent == bytes.count else { throw self.error("can't be asked", errno) }
    }

    /// Passes each message of the answer to `body`, with its type, until `body` returns false.
    ///
    /// - Returns: the error code that ended it; 0 if there was none.
    @discardableResult
    func receive(_ body: (UInt16, UnsafeRawBufferPointer) -> Bool) throws(DiversionError) -> CInt {
        var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                throw self.error("doesn't answer", count == 0 ? EPIPE : errno)
            }
            let end = buffer.withUnsafeBytes { bytes in
                NetlinkMessages.walk(UnsafeRawBufferPointer(rebasing: bytes[..<count]), body)
            }
            if let end { return end }
        }
    }

    func error(_ what: String, _ code: CInt) -> DiversionError {
        DiversionError("\(self.subject) \(what): \(String(cString: strerror(code))).")
    }
}

/// Parses consecutive netlink messages in a received buffer.
enum NetlinkMessages {
    /// - Parameter body: gets each message's type and content, and returns whether to go on.
    /// - Returns: the code that ended it, 0 for none; nil if more messages are to come.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (UInt16, UnsafeRawBufferPointer) -> Bool) -> CInt? {
        Self.walk(bytes) { header, content in
            switch CInt(header.nlmsg_type) {
            case NLMSG_DONE: return 0
            case NLMSG_ERROR: return Self.code(content)
            default: return body(header.nlmsg_type, content) ? nil : 0
            }
        }
    }

    /// The error code in an NLMSG_ERROR; 0 means success.
    static func code(_ content: UnsafeRawBufferPointer) -> CInt {
        guard content.count >= MemoryLayout<CInt>.size else { return EPROTO }
        return 0 &- content.loadUnaligned(as: CInt.self)
    }

    /// - Parameter body: gets each message, and returns a code to end with, or nil to go on.
    /// - Returns: that code; nil if there was none.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (nlmsghdr, UnsafeRawBufferPointer) -> CInt?) -> CInt? {
        var rest = bytes
        let headerSize = MemoryLayout<nlmsghdr>.size
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlmsghdr.self)
            let size = Int(header.nlmsg_len)
            guard size >= headerSize, size <= rest.count else { return EPROTO }
            if let end = body(header, UnsafeRawBufferPointer(rebasing: rest[headerSize..<size])) { return end }
            // Messages are aligned to four bytes.
            rest = UnsafeRawBufferPointer(rebasing: rest[min((size + 3) & ~3, rest.count)...])
        }
        return nil
    }
}
#endif
