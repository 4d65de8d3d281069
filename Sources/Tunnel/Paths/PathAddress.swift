/// The IP address and port of one end of a datagram path: a value, with no socket behind it.
///
/// An IPv4 address that a dual-stack socket shows as an IPv6 address is stored as that IPv4 address.
public struct PathAddress: Hashable, Sendable {
    /// The 16 bytes of an IPv6 address, or of an IPv4 address mapped to it (RFC 4291 §2.5.5.2), in network order.
    public let high: UInt64
    public let low: UInt64
    public let port: UInt16
    /// The interface of a link-local address; otherwise 0.
    public let scope: UInt32

    private static let mapped: UInt64 = 0xffff_0000_0000

    public init(ipv4 address: UInt32, port: UInt16) {
        self.high = 0
        self.low = Self.mapped | UInt64(address)
        self.port = port
        self.scope = 0
    }

    public init(ipv6High high: UInt64, low: UInt64, port: UInt16, scope: UInt32 = 0) {
        self.high = high
        self.low = low
        self.port = port
        self.scope = scope
    }

    /// The IPv4 address in host byte order; nil for an IPv6 address.
    public var ipv4: UInt32? {
        self.high == 0 && self.low >> 32 == Self.mapped >> 32 ? UInt32(truncatingIfNeeded: self.low) : nil
    }

    /// Whether both have the same IP address: a new port alone is a NAT's new mapping.
    func isSameHost(as other: PathAddress) -> Bool {
        self.high == other.high && self.low == other.low && self.scope == other.scope
    }

    /// The source that rate limits count: an IPv4 address, or the /64 that one IPv6 host commonly has to itself.
    var source: PathAddress {
        self.ipv4 == nil
            ? PathAddress(ipv6High: self.high, low: 0, port: 0)
            : PathAddress(ipv6High: self.high, low: self.low, port: 0)
    }

    /// Address ‖ port, the input of a cookie (PROTOCOL, cookies): always 18 bytes.
    func withCookieBytes<Result>(_ body: (RawSpan) -> Result) -> Result {
        let words = (self.high.bigEndian, self.low.bigEndian, (UInt64(self.port) << 48).bigEndian)
        return withUnsafeBytes(of: words) { bytes in body(RawSpan(_unsafeBytes: bytes).extracting(0..<18)) }
    }
}

extension PathAddress: CustomStringConvertible {
    /// `192.0.2.1:51820`, `[2001:db8:0:0:0:0:0:1]:51820`.
    public var description: String {
        if let ipv4 = self.ipv4 {
            return "\(ipv4 >> 24).\(ipv4 >> 16 & 255).\(ipv4 >> 8 & 255).\(ipv4 & 255):\(self.port)"
        }
        let groups = [self.high, self.low].flatMap { word in
            [48, 32, 16, 0].map { String(word >> $0 & 0xffff, radix: 16) }
        }
        return "[\(groups.joined(separator: ":"))]:\(self.port)"
    }
}

/// Where a peer's datagrams come from, and which of our addresses they were sent to: answers leave from that one.
public struct DatagramRoute: Hashable, Sendable {
    public var remote: PathAddress
    public var local: PathAddress?

    public init(remote: PathAddress, local: PathAddress? = nil) {
        self.remote = remote
        self.local = local
    }
}
