/// A port of a service, as clients name it.
public struct ServicePort: Hashable, Sendable {
    public var number: UInt16
    public var transport: Transport

    /// An intercept has at most this many: they fit into a control message, and it is far more than a service has.
    public static let maxCount = 1_024

    public init(_ number: UInt16, _ transport: Transport = .tcp) {
        self.number = number
        self.transport = transport
    }
}

public enum Transport: String, Codable, Sendable, CaseIterable {
    case tcp
    case udp

    /// The text after a port's number: empty for TCP.
    public var suffix: String { self == .udp ? "/udp" : "" }
}

/// `8080`, `53/udp`
extension ServicePort: CustomStringConvertible {
    public var description: String { "\(self.number)\(self.transport.suffix)" }
}

extension ServicePort: Comparable {
    public static func < (left: Self, right: Self) -> Bool {
        (left.number, left.transport.rawValue) < (right.number, right.transport.rawValue)
    }
}

/// A port that a sidecar serves, and where the original listens.
public struct ServedPort: Hashable, Sendable {
    public var port: ServicePort
    public var upstream: Endpoint

    public init(_ port: ServicePort, upstream: Endpoint) {
        self.port = port
        self.upstream = upstream
    }
}

extension ServedPort: CustomStringConvertible {
    /// As the flag `--service-port` is written, in full.
    public var description: String { "\(self.port.number):\(self.upstream)\(self.port.transport.suffix)" }
}
