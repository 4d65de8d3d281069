import CSpawn
import Libc

/// Receives children's status as sd_notify(3) datagrams. The socket is either in a folder, where only its user can send to
/// it, or has an abstract name, which fits however long a folder's path is; but to that any process can send, and fill it
/// for a while. Each datagram carries its sender's process.
public final class NotificationSocket: Sendable {
    /// For NOTIFY_SOCKET: a path, or `@` and the name.
    public let name: String
    private let descriptor: CInt

    /// - Parameter name: without the `@`. nil if the name is taken.
    public convenience init?(name: String) throws(HostError) {
        guard let descriptor = try Self.bound(to: [0] + Array(name.utf8).prefix(Self.room - 1), "@\(name)") else {
            return nil
        }
        self.init("@\(name)", descriptor)
    }

    /// Binds in a folder; an existing file is removed. Only this user and root may send to it.
    ///
    /// - Returns: nil if the path doesn't fit into a socket address.
    public convenience init?(path: String) throws(HostError) {
        let bytes = Array(path.utf8)
        guard bytes.count < Self.room else { return nil }
        unlink(path)
        guard let descriptor = try Self.bound(to: bytes + [0], path) else { return nil }
        self.init(path, descriptor)
    }

    private init(_ name: String, _ descriptor: CInt) {
        self.name = name
        self.descriptor = descriptor
    }

    /// The size of a socket address's path (unix(7)).
    private static let room = MemoryLayout.size(ofValue: sockaddr_un().sun_path)

    /// nil if the name is taken.
    private static func bound(to bytes: [UInt8], _ name: String) throws(HostError) -> CInt? {
        let descriptor = socket(AF_UNIX, SocketType.datagram | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { throw .last(name, "can't be listened on") }
        var on: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_PASSCRED, &on, socklen_t(MemoryLayout<CInt>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let size = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
        let isBound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                // The socket's mode becomes its file's.
                fchmod(descriptor, 0o600) == 0 && bind(descriptor, address, size) == 0
            }
        }
        guard isBound else {
            let code = errno
            close(descriptor)
            if code == EADDRINUSE { return nil }
            throw HostError("\(name) can't be listened on", code: code)
        }
        return descriptor
    }

    deinit { close(self.descriptor) }

    public struct Datagram: Sendable {
        /// The sending process, according to the kernel; 0 if it doesn't tell.
        public var sender: Int32
        public var fields: [String: String]
    }

    /// † A sidecar with all its holders takes some 10 KiB.
    private static let maxBytes = 65_536

    /// Waits for the next datagram from this user. nil if there will be none.
    ///
    /// Everyone can see an abstract name in /proc/net/unix: datagrams from other users are discarded here, before they cost more.
    public func next() -> Datagram? {
        var bytes = [UInt8](repeating: 0, count: Self.maxBytes)
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

    /// A line without `=` is ignored; of a repeated name the last value counts.
    static func parse(_ bytes: some Collection<UInt8>) -> [String: String] {
        var result: [String: String] = [:]
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            guard let field = Assignment(String(decoding: line, as: UTF8.self)) else { continue }
            result[field.name] = field.value
        }
        return result
    }
}
