import InterceptModel
public import NIOCore

/// A client's address and port as raw bits: it is only sent through the tunnel, and no socket is opened to it.
public struct ClientAddress: Hashable, Sendable {
    public let isIPv6: Bool
    /// The first 64 bits of an IPv6 address, and 0 for IPv4.
    public let high: UInt64
    /// The last 64 bits, or all 32.
    public let low: UInt64
    public let port: UInt16

    public init(ipv4 bits: UInt32, port: UInt16) {
        self.isIPv6 = false
        self.high = 0
        self.low = UInt64(bits)
        self.port = port
    }

    public init(ipv6High high: UInt64, low: UInt64, port: UInt16) {
        self.isIPv6 = true
        self.high = high
        self.low = low
        self.port = port
    }

    /// An address without an IP, such as a Unix socket's, becomes 0.0.0.0. An IPv4 client of an IPv6 socket counts as IPv4.
    public init(_ address: SocketAddress?) {
        switch address {
        case .v4(let address):
            self.init(
                ipv4: UInt32(bigEndian: address.address.sin_addr.s_addr),
                port: UInt16(bigEndian: address.address.sin_port)
            )
        case .v6(let address):
            let port = UInt16(bigEndian: address.address.sin6_port)
            let (high, low) = withUnsafeBytes(of: address.address.sin6_addr) { bytes in
                (
                    UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                    UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
                )
            }
            if high == 0, low >> 32 == 0xffff {
                self.init(ipv4: UInt32(truncatingIfNeeded: low), port: port)
            } else {
                self.init(ipv6High: high, low: low, port: port)
            }
        case .unixDomainSocket, .none: self.init(ipv4: 0, port: 0)
        }
    }

    /// Stands for no client: the stream is the sidecar's probe of the way to a local server (PROTOCOL, probe).
    public static let unspecified = ClientAddress(ipv4: 0, port: 0)

    public var isUnspecified: Bool { self.high == 0 && self.low == 0 && self.port == 0 }

    /// nil if the bytes are incomplete.
    init?(isIPv6: Bool, from bytes: inout ByteBuffer) {
        if isIPv6 {
            guard let (high, low, port) = bytes.readMultipleIntegers(as: (UInt64, UInt64, UInt16).self) else {
                return nil
            }
            self.init(ipv6High: high, low: low, port: port)
        } else {
            guard let (bits, port) = bytes.readMultipleIntegers(as: (UInt32, UInt16).self) else { return nil }
            self.init(ipv4: bits, port: port)
        }
    }

    /// 16 bytes or 4.
    func writeAddress(into bytes: inout ByteBuffer) {
        if self.isIPv6 {
            bytes.writeMultipleIntegers(self.high, self.low)
        } else {
            bytes.writeInteger(UInt32(truncatingIfNeeded: self.low))
        }
    }

    public var socketAddress: SocketAddress? {
        var packed = ByteBuffer()
        self.writeAddress(into: &packed)
        return try? SocketAddress(packedIPAddress: packed, port: Int(self.port))
    }
}

extension ClientAddress: CustomStringConvertible {
    /// `192.0.2.1:40000` or `[2001:db8::1]:40000`.
    public var description: String {
        Endpoint(host: self.socketAddress?.ipAddress ?? "?", port: self.port).description
    }
}
