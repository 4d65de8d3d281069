/// The driver's number of a carrier. Each new carrier gets a higher number; none is used twice.
public struct CarrierID: Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    public static func < (left: CarrierID, right: CarrierID) -> Bool { left.rawValue < right.rawValue }
}

/// How a carrier delivers messages.
public enum CarrierKind: Sendable {
    /// A reliable, ordered byte stream until it breaks: TCP, or a command's standard input and output.
    case stream
    /// A byte stream by way of other programs, as `kl-sidecar dial` is: when one of them dies, nothing may tell either end.
    case relay
    /// Each message by itself; some are lost, late or duplicated: UDP.
    case datagrams
}

/// A connection's name in handshakes: it lets a later session join the connection.
public struct ConnectionID: Hashable, Sendable {
    let rawValue: UInt64
}

/// Which of the two sides this is: the workspace dials and is the initiator, the sidecar responds.
public enum Role: Sendable {
    case initiator
    case responder
}

/// A stream's number: RFC 9000 §2.1. Bit 0 says which side opened it; all streams are bidirectional here.
public struct StreamID: Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    init(index: UInt64, openedBy role: Role) {
        self.rawValue = index << 2 | (role == .responder ? 1 : 0)
    }

    /// Stream 0, which the initiator opens: workspace and sidecar exchange control messages on it.
    public static let control = StreamID(rawValue: 0)

    var index: UInt64 { self.rawValue >> 2 }
    var isUnidirectional: Bool { self.rawValue & 0b10 != 0 }
    var opener: Role { self.rawValue & 1 == 0 ? .initiator : .responder }

    public static func < (left: StreamID, right: StreamID) -> Bool { left.rawValue < right.rawValue }
}
