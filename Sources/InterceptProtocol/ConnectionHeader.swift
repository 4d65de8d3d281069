public import NIOCore

/// How an intercepted connection's stream begins: which port a client called, and who it is.
public struct ConnectionHeader: Equatable, Sendable {
    public var transport: Transport
    public var servicePort: UInt16
    public var client: ClientAddress

    public init(transport: Transport, servicePort: UInt16, client: ClientAddress) {
        self.transport = transport
        self.servicePort = servicePort
        self.client = client
    }

    private static let version: UInt8 = 1
    /// The protocol numbers of IP.
    private static let tcp: UInt8 = 6
    private static let udp: UInt8 = 17

    public func write(into bytes: inout ByteBuffer) {
        bytes.writeInteger(Self.version)
        bytes.writeInteger(self.transport == .tcp ? Self.tcp : Self.udp)
        bytes.writeInteger(self.servicePort)
        bytes.writeInteger(UInt8(self.client.isIPv6 ? 6 : 4))
        if self.client.isIPv6 { bytes.writeInteger(self.client.high) }
        if self.client.isIPv6 {
            bytes.writeInteger(self.client.low)
        } else {
            bytes.writeInteger(UInt32(truncatingIfNeeded: self.client.low))
        }
        bytes.writeInteger(self.client.port)
    }

    public enum Parsed: Equatable, Sendable {
        case needsMore
        case header(ConnectionHeader)
        /// An unknown version, transport or family: answered by `.other`.
        case unsupported
    }

    /// Reads a header if all of it is there, else nothing.
    public static func parse(_ bytes: inout ByteBuffer) -> Parsed {
        let start = bytes.readerIndex
        guard let version: UInt8 = bytes.getInteger(at: start) else { return .needsMore }
        guard version == Self.version else { return .unsupported }
        guard let number: UInt8 = bytes.getInteger(at: start + 1) else { return .needsMore }
        guard number == Self.tcp || number == Self.udp else { return .unsupported }
        guard let port: UInt16 = bytes.getInteger(at: start + 2), let family: UInt8 = bytes.getInteger(at: start + 4)
        else { return .needsMore }
        guard family == 4 || family == 6 else { return .unsupported }
        guard bytes.readableBytes >= 5 + (family == 6 ? 16 : 4) + 2 else { return .needsMore }
        bytes.moveReaderIndex(forwardBy: 5)
        var client = ClientAddress(isIPv6: family == 6)
        if family == 6 {
            client.high = bytes.readInteger() ?? 0
            client.low = bytes.readInteger() ?? 0
        } else {
            client.low = UInt64(bytes.readInteger(as: UInt32.self) ?? 0)
        }
        client.port = bytes.readInteger() ?? 0
        return .header(
            ConnectionHeader(transport: number == Self.tcp ? .tcp : .udp, servicePort: port, client: client)
        )
    }
}

/// A client's address and port: all of IPv6, or the last 32 bits alone.
public struct ClientAddress: Hashable, Sendable {
    public var isIPv6: Bool
    public var high: UInt64 = 0
    public var low: UInt64 = 0
    public var port: UInt16 = 0

    init(isIPv6: Bool) { self.isIPv6 = isIPv6 }

    /// An address that has none, as a Unix socket's, is 0.0.0.0. An IPv4 client of an IPv6 socket is an IPv4 client.
    public init(_ address: SocketAddress?) {
        self.isIPv6 = false
        switch address {
        case .v4(let address):
            self.low = UInt64(UInt32(bigEndian: address.address.sin_addr.s_addr))
            self.port = UInt16(bigEndian: address.address.sin_port)
        case .v6(let address):
            var raw = address.address.sin6_addr
            withUnsafeBytes(of: &raw) { bytes in
                self.high = UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))
                self.low = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            }
            self.port = UInt16(bigEndian: address.address.sin6_port)
            if self.high == 0, self.low >> 32 == 0xffff {
                self.low &= 0xffff_ffff
            } else {
                self.isIPv6 = true
            }
        case .unixDomainSocket, .none: break
        }
    }
}

/// The workspace's first byte on an intercepted connection's stream.
public enum Answer: UInt8, Sendable {
    case connected = 0
    case refused = 1
    case unmapped = 2
    case timedOut = 3
    case other = 4
}
