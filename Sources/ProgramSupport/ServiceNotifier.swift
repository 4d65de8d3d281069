import Libc

/// Reports this program's status to its supervisor, in sd_notify(3) datagrams.
///
/// It never blocks: `send` returns false if a datagram can't be sent now.
public struct ServiceNotifier: Sendable {
    private let descriptor: CInt
    /// Begins with NUL for an abstract name.
    private let name: [UInt8]

    /// The address in NOTIFY_SOCKET; nil if it isn't set or is invalid. The variable is removed, as it isn't meant for children.
    ///
    /// Call it before any other thread starts: access to the environment isn't synchronized.
    public static func inherited() -> ServiceNotifier? {
        defer { unsetenv("NOTIFY_SOCKET") }
        return getenv("NOTIFY_SOCKET").flatMap { ServiceNotifier(to: String(cString: $0)) }
    }

    /// - Parameter address: a path, or `@` and an abstract name; anything else gives nil.
    init?(to address: String) {
        guard let name = Self.socketName(address) else { return nil }
        let descriptor = socket(AF_UNIX, SocketType.datagram, 0)
        guard descriptor >= 0 else { return nil }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        self.descriptor = descriptor
        self.name = name
    }

    static func socketName(_ address: String) -> [UInt8]? {
        var name = Array(address.utf8)
        guard name.count > 1, name.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) else { return nil }
        switch name[0] {
        case UInt8(ascii: "@"): name[0] = 0
        case UInt8(ascii: "/"): break
        default: return nil
        }
        return name
    }

    /// False if it couldn't be sent; the caller may try again.
    @discardableResult
    public func send(_ fields: [(String, String)]) -> Bool {
        let bytes = Array(Self.message(fields).utf8)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: self.name) }
        // The address's length ends an abstract name; a path ends with NUL.
        let isPath = self.name.first != 0
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let size = socklen_t(offset + self.name.count + (isPath ? 1 : 0))
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                while true {
                    let count = sendto(self.descriptor, bytes, bytes.count, Self.flags, pointer, size)
                    if count < 0, errno == EINTR { continue }
                    return count == bytes.count
                }
            }
        }
    }

    /// Line breaks are removed, as a value can't contain them.
    static func message(_ fields: [(String, String)]) -> String {
        fields.map { "\($0.0)=\($0.1.filter { !$0.isNewline })" }.joined(separator: "\n")
    }

    /// No MSG_NOSIGNAL: only stream sockets raise SIGPIPE.
    private static let flags = CInt(MSG_DONTWAIT)
}

extension ServiceNotifier {
    static let ready = [("READY", "1")]

    /// The time lets the receiver tell whether the configuration was read after a change.
    static var reloading: [(String, String)] {
        [("RELOADING", "1"), ("MONOTONIC_USEC", "\(Steady.microseconds)")]
    }

    public func stopping() { self.send([("STOPPING", "1")]) }
}
