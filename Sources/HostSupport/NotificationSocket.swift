import CSpawn

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Where children tell how they are, in datagrams as sd_notify(3) has them. Its name is abstract: as long as a folder's path may
/// be, it fits. Any process can send to it, and so each datagram says whose it is.
public final class NotificationSocket: Sendable {
    /// As NOTIFY_SOCKET has it: `@` and the name.
    public let name: String
    private let descriptor: CInt

    /// - Parameter name: without the `@`. Nil: somebody has it.
    public init?(name: String) throws(HostError) {
        let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .last("@\(name)", "can't be listened on") }
        var on: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_PASSCRED, &on, socklen_t(MemoryLayout<CInt>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = [0] + Array(name.utf8).prefix(MemoryLayout.size(ofValue: address.sun_path) - 1)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let size = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
        let isBound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, size) == 0 }
        }
        guard isBound else {
            let code = errno
            close(descriptor)
            if code == EADDRINUSE { return nil }
            throw HostError("@\(name) can't be listened on", code: code)
        }
        self.name = "@\(name)"
        self.descriptor = descriptor
    }

    deinit { close(self.descriptor) }

    public struct Datagram: Sendable {
        /// Whose it is, as the kernel says it; 0 where it doesn't.
        public var sender: Int32
        public var fields: [String: String]
    }

    /// Waits for the next of this user's. Nil: there will be none.
    ///
    /// The name is in /proc/net/unix for everybody: what others send is thrown away here, before it costs more.
    public func next() -> Datagram? {
        var bytes = [UInt8](repeating: 0, count: 4_096)
        while true {
            var sender: pid_t = 0
            var user: uid_t = 0
            let count = bytes.withUnsafeMutableBytes {
                kl_receive_from(self.descriptor, $0.baseAddress, $0.count, &sender, &user)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            guard user == geteuid() else { continue }
            return Datagram(sender: sender, fields: Self.parse(bytes[..<count]))
        }
    }

    /// A line without `=` says nothing; of a name that comes twice the last value counts.
    static func parse(_ bytes: some Collection<UInt8>) -> [String: String] {
        var result: [String: String] = [:]
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let text = String(decoding: line, as: UTF8.self)
            guard let equals = text.firstIndex(of: "=") else { continue }
            result[String(text[..<equals])] = String(text[text.index(after: equals)...])
        }
        return result
    }
}
