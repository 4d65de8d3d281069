import Libc

/// Listening sockets that a supervisor opened for this program (sd_listen_fds(3)).
///
/// As the supervisor keeps them open while this program restarts, no client is lost: connections wait in the kernel's queue.
public struct ActivatedSockets: Sendable {
    public struct Socket: Equatable, Sendable {
        public var descriptor: CInt
        /// From LISTEN_FDNAMES; empty if the socket has no name.
        public var name: String
        /// The local port; nil if the socket has none.
        public var port: UInt16?
        /// Whether it takes datagrams instead of connections.
        public var isUDP = false
    }

    /// The first descriptor passed, SD_LISTEN_FDS_START.
    static let first: CInt = 3
    /// No valid supervisor passes more.
    static let countAtMost = 1_024

    /// The sockets that haven't been taken yet.
    public private(set) var sockets: [Socket]

    init(_ sockets: [Socket]) { self.sockets = sockets }

    /// Takes the sockets that the environment names. The variables are removed, and children don't inherit the descriptors.
    /// Anything that isn't a listening TCP socket or a bound UDP socket is left alone.
    ///
    /// Call it before any other thread starts: access to the environment isn't synchronized.
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
                guard type(of: descriptor) == SocketType.datagram, let port, port > 0 else { return nil }
                return Socket(descriptor: descriptor, name: name, port: port, isUDP: true)
            }
        )
    }

    /// Empty if the variables are for another process, or are invalid.
    static func parse(count: String?, pid: String?, names: String?, ownPid: Int32) -> [(CInt, String)] {
        guard let pid, Int32(pid) == ownPid, let count = count.flatMap({ Int($0) }),
            (1...Self.countAtMost).contains(count)
        else { return [] }
        var names = (names ?? "").split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        names += Array(repeating: "", count: max(0, count - names.count))
        return names.prefix(count).enumerated().map { (Self.first + CInt($0.offset), $0.element) }
    }

    /// Takes the listening sockets with this name.
    public mutating func take(named name: String) -> [CInt] { self.take { $0.name == name && !$0.isUDP } }

    /// Takes the sockets with this port.
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
    return type(of: descriptor) == SocketType.stream
}

private func type(of descriptor: CInt) -> CInt? {
    var value: CInt = 0
    var size = socklen_t(MemoryLayout<CInt>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &value, &size) == 0 ? value : nil
}
