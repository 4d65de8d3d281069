import Libc
public import NIOCore

/// A socket that the agent opens to the original while the kernel redirects clients: it carries the agent's mark, and where the
/// network allows it, the client's address.
public struct OwnSocket: Sendable {
    /// The address that the original sees; its port is ignored. nil: one of this machine's, as the routes choose.
    public private(set) var address: SocketAddress?
    /// Ports that the socket must not have.
    private let avoided: Set<UInt16>

    init(from address: SocketAddress?, avoiding ports: Set<UInt16> = []) {
        self.address = address
        self.avoided = ports
    }

    public var withoutAddress: OwnSocket { OwnSocket(from: nil) }

    /// Sets a socket's options before it connects. If the client's address can't be used, the socket gets one of this
    /// machine's.
    public func prepare(_ descriptor: CInt) {
        #if os(Linux)
        Self.set(descriptor, SOL_SOCKET, SO_MARK, CInt(bitPattern: RedirectDiversion.mark))
        guard let address else { return }
        if self.avoided.isEmpty || !self.bindElsewhere(descriptor, address) { _ = Self.bind(descriptor, to: address) }
        #endif
    }

    #if os(Linux)
    private static let attempts = 32  // †

    /// Chooses a port as the kernel would, but none of the ports to avoid.
    private func bindElsewhere(_ descriptor: CInt, _ address: SocketAddress) -> Bool {
        guard Self.allow(descriptor, isIPv6: address.protocol == .inet6) == 0 else { return false }
        let range = Self.portRange
        for _ in 0..<Self.attempts {
            let port = UInt16.random(in: range)
            guard !self.avoided.contains(port) else { continue }
            var place = address
            place.port = Int(port)
            if place.withSockAddr({ Libc.bind(descriptor, $0, socklen_t($1)) }) == 0 { return true }
        }
        return false
    }

    /// Read from the network namespace in which the process first uses it.
    private static let portRange: ClosedRange<UInt16> = {
        let descriptor = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC)
        let usual: ClosedRange<UInt16> = 32_768...60_999
        guard descriptor >= 0 else { return usual }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
        let words = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split {
            $0 == "\t" || $0 == "\n" || $0 == " "
        }
        guard words.count == 2, let first = UInt16(words[0]), let last = UInt16(words[1]), first <= last else {
            return usual
        }
        return first...last
    }()

    /// Binds a socket to an address that needn't be this machine's.
    ///
    /// - Returns: 0, or an errno code.
    static func bind(_ descriptor: CInt, to address: SocketAddress) -> CInt {
        let code = Self.allow(descriptor, isIPv6: address.protocol == .inet6)
        guard code == 0 else { return code }
        // The kernel chooses the port when the socket connects: connections of different clients may then have the same one.
        Self.set(descriptor, CInt(IPPROTO_IP), IP_BIND_ADDRESS_NO_PORT, 1)
        var anyPort = address
        anyPort.port = 0
        return anyPort.withSockAddr { Libc.bind(descriptor, $0, socklen_t($1)) } == 0 ? 0 : errno
    }

    /// Lets the socket have another machine's address: that needs CAP_NET_ADMIN or CAP_NET_RAW.
    static func allow(_ descriptor: CInt, isIPv6: Bool) -> CInt {
        let done =
            isIPv6
            ? Self.set(descriptor, CInt(IPPROTO_IPV6), IPV6_TRANSPARENT, 1)
            : Self.set(descriptor, CInt(IPPROTO_IP), IP_TRANSPARENT, 1)
        return done ? 0 : errno
    }

    @discardableResult
    static func set(_ descriptor: CInt, _ level: CInt, _ option: CInt, _ value: CInt) -> Bool {
        var value = value
        return setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<CInt>.size)) == 0
    }
    #endif
}
