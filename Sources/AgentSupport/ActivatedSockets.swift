#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Listening sockets that another program opened for this one (sd_listen_fds(3)).
///
/// Whoever keeps them open while this program is started again loses no client: connections wait in the kernel's queue.
public struct ActivatedSockets: Sendable {
    public struct Socket: Equatable, Sendable {
        public var descriptor: CInt
        /// As LISTEN_FDNAMES has it; empty where nobody named it.
        public var name: String
        /// Its own; nil where it has none.
        public var port: UInt16?
        /// It takes datagrams in place of connections.
        public var isUDP = false
    }

    /// The first descriptor that is handed over, SD_LISTEN_FDS_START.
    static let first: CInt = 3
    /// More are nobody's who means it.
    static let countAtMost = 1_024

    /// Those that nobody has taken yet.
    public private(set) var sockets: [Socket]

    init(_ sockets: [Socket]) { self.sockets = sockets }

    /// Takes what the environment names, once: the variables are removed, and children don't get the descriptors. What isn't a
    /// listening TCP socket or a bound UDP socket is left alone.
    ///
    /// Call it before any other thread starts: the environment has no lock.
    public static func inherited() -> ActivatedSockets {
        let named = Self.parse(
            count: text("LISTEN_FDS"),
            pid: text("LISTEN_PID"),
            names: text("LISTEN_FDNAMES"),
            ownPid: getpid()
        )
        for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] { unsetenv(variable) }
        return ActivatedSockets(
            named.compactMap { descriptor, name in
                let flags = fcntl(descriptor, F_GETFD)
                guard flags >= 0, fcntl(descriptor, F_SETFD, flags | FD_CLOEXEC) == 0 else { return nil }
                let port = localPort(of: descriptor)
                if isListening(descriptor) { return Socket(descriptor: descriptor, name: name, port: port) }
                guard type(of: descriptor) == datagram, let port, port > 0 else { return nil }
                return Socket(descriptor: descriptor, name: name, port: port, isUDP: true)
            }
        )
    }

    /// Nothing where the variables are another process's, or make no sense.
    static func parse(count: String?, pid: String?, names: String?, ownPid: Int32) -> [(CInt, String)] {
        guard let pid, Int32(pid) == ownPid, let count = count.flatMap({ Int($0) }),
            (1...Self.countAtMost).contains(count)
        else { return [] }
        var names = (names ?? "").split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        names += Array(repeating: "", count: max(0, count - names.count))
        return names.prefix(count).enumerated().map { (Self.first + CInt($0.offset), $0.element) }
    }

    /// Those of this name that listen for connections.
    public mutating func take(named name: String) -> [CInt] { self.take { $0.name == name && !$0.isUDP } }

    /// Those of this port.
    public mutating func take(port: UInt16, isUDP: Bool = false) -> [CInt] {
        self.take { $0.port == port && $0.isUDP == isUDP }
    }

    private mutating func take(_ isWanted: (Socket) -> Bool) -> [CInt] {
        let taken = self.sockets.filter(isWanted)
        self.sockets.removeAll(where: isWanted)
        return taken.map(\.descriptor)
    }
}

private func text(_ variable: String) -> String? { getenv(variable).map { String(cString: $0) } }

private func isListening(_ descriptor: CInt) -> Bool {
    var value: CInt = 0
    var size = socklen_t(MemoryLayout<CInt>.size)
    guard getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0, value != 0 else { return false }
    return type(of: descriptor) == stream
}

private func type(of descriptor: CInt) -> CInt? {
    var value: CInt = 0
    var size = socklen_t(MemoryLayout<CInt>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &value, &size) == 0 ? value : nil
}

private func localPort(of descriptor: CInt) -> UInt16? {
    var address = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let result = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
    }
    guard result == 0, [AF_INET, AF_INET6].contains(CInt(address.ss_family)) else { return nil }
    // The port stands at the same place in both families' addresses.
    return withUnsafeBytes(of: &address) { UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)) }
}

#if canImport(Glibc)
private let stream = CInt(SOCK_STREAM.rawValue)
private let datagram = CInt(SOCK_DGRAM.rawValue)
#else
private let stream = CInt(SOCK_STREAM)
private let datagram = CInt(SOCK_DGRAM)
#endif
