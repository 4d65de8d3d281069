public import InterceptModel
public import NIOCore

/// The beginning of an intercepted connection's stream: which port a client called, and the client's address.
public struct ConnectionHeader: Hashable, Sendable {
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
        self.client.writeAddress(into: &bytes)
        bytes.writeInteger(self.client.port)
    }

    public enum Parsed: Equatable, Sendable {
        case needsMore
        case header(ConnectionHeader)
        /// An unknown version, transport or family: answered by `.other`.
        case unsupported
    }

    /// Takes a complete header from `bytes`, otherwise nothing. An unsupported value is reported as soon as its byte is there.
    public static func parse(_ bytes: inout ByteBuffer) -> Parsed {
        var rest = bytes
        guard let version: UInt8 = rest.readInteger() else { return .needsMore }
        guard version == Self.version else { return .unsupported }
        guard let number: UInt8 = rest.readInteger() else { return .needsMore }
        guard number == Self.tcp || number == Self.udp else { return .unsupported }
        guard let servicePort: UInt16 = rest.readInteger(), let family: UInt8 = rest.readInteger() else {
            return .needsMore
        }
        guard family == 4 || family == 6 else { return .unsupported }
        guard let client = ClientAddress(isIPv6: family == 6, from: &rest) else { return .needsMore }
        bytes = rest
        let transport: Transport = number == Self.tcp ? .tcp : .udp
        return .header(ConnectionHeader(transport: transport, servicePort: servicePort, client: client))
    }
}
