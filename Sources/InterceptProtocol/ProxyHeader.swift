public import InterceptModel
public import NIOCore

/// The header of HAProxy's PROXY protocol, sent before a connection's bytes: it tells a server the client's address and the
/// address that the client called (proxy-protocol.txt, sections 2.1 and 2.2).
public struct ProxyHeader: Equatable, Sendable {
    /// Both addresses in one family; nil if one isn't known, or if there is no client.
    private let addresses: (client: ClientAddress, destination: ClientAddress)?
    private let isLocal: Bool

    public init(client: ClientAddress, destination: ClientAddress) {
        self.isLocal = false
        guard !client.hasNoAddress, !destination.hasNoAddress else {
            self.addresses = nil
            return
        }
        let isMixed = client.isIPv6 != destination.isIPv6
        self.addresses = isMixed ? (client.asIPv6, destination.asIPv6) : (client, destination)
    }

    private init() {
        self.isLocal = true
        self.addresses = nil
    }

    /// For a connection without a client: a check whether the server listens.
    public static let local = ProxyHeader()

    public func write(_ version: ProxyProtocol, into bytes: inout ByteBuffer) {
        switch version {
        case .v1: self.writeText(into: &bytes)
        case .v2: self.writeBinary(into: &bytes)
        }
    }

    /// Section 2.1: at most 107 bytes.
    private func writeText(into bytes: inout ByteBuffer) {
        guard let (client, destination) = self.addresses, let from = client.socketAddress?.ipAddress,
            let to = destination.socketAddress?.ipAddress
        else {
            bytes.writeString("PROXY UNKNOWN\r\n")
            return
        }
        let family = client.isIPv6 ? "TCP6" : "TCP4"
        bytes.writeString("PROXY \(family) \(from) \(to) \(client.port) \(destination.port)\r\n")
    }

    private static let signature: [UInt8] = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a,
    ]
    /// Version 2 in the high half; the command in the low one.
    private static let localCommand: UInt8 = 0x20
    private static let proxyCommand: UInt8 = 0x21
    /// The address family in the high half; 1 is a stream.
    private static let unspecified: UInt8 = 0x00
    private static let tcpOverIPv4: UInt8 = 0x11
    private static let tcpOverIPv6: UInt8 = 0x21

    /// Section 2.2: 16 bytes and the addresses.
    private func writeBinary(into bytes: inout ByteBuffer) {
        bytes.writeBytes(Self.signature)
        bytes.writeInteger(self.isLocal ? Self.localCommand : Self.proxyCommand)
        guard let (client, destination) = self.addresses else {
            bytes.writeInteger(Self.unspecified)
            bytes.writeInteger(UInt16(0))
            return
        }
        bytes.writeInteger(client.isIPv6 ? Self.tcpOverIPv6 : Self.tcpOverIPv4)
        bytes.writeInteger(UInt16(client.isIPv6 ? 36 : 12))
        client.writeAddress(into: &bytes)
        destination.writeAddress(into: &bytes)
        bytes.writeInteger(client.port)
        bytes.writeInteger(destination.port)
    }

    public static func == (one: ProxyHeader, other: ProxyHeader) -> Bool {
        one.isLocal == other.isLocal && one.addresses?.client == other.addresses?.client
            && one.addresses?.destination == other.addresses?.destination
    }
}

extension ClientAddress {
    fileprivate var hasNoAddress: Bool { !self.isIPv6 && self.low == 0 }

    /// An IPv4 address as an IPv6 socket shows it: ::ffff:192.0.2.1.
    fileprivate var asIPv6: ClientAddress {
        self.isIPv6 ? self : ClientAddress(ipv6High: 0, low: 0xffff << 32 | self.low, port: self.port)
    }
}
