/// A carrier, as the driver numbers them: each new one gets a higher number, and none is used twice.
public struct CarrierID: Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(_ rawValue: UInt64) { self.rawValue = rawValue }

    public static func < (left: CarrierID, right: CarrierID) -> Bool { left.rawValue < right.rawValue }
}

/// What a carrier does with messages.
public enum CarrierKind: Sendable {
    /// Bytes in order, until it breaks: TCP, or a command's standard input and output.
    case stream
    /// Each by itself, some lost, late or twice: UDP.
    case datagrams
}

/// What a connection is called in handshakes, so that a later session can carry it on.
public struct ConnectionID: Hashable, Sendable {
    let rawValue: UInt64
}

/// Which of the two sides this is: the workspace dials and is the initiator, the sidecar responds.
public enum Role: Sendable {
    case initiator
    case responder
}

/// A stream's number: RFC 9000 §2.1. Bit 0 tells who opened it, and all are bidirectional here.
public struct StreamID: Hashable, Comparable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    init(index: UInt64, openedBy role: Role) {
        self.rawValue = index << 2 | (role == .responder ? 1 : 0)
    }

    /// Stream 0, which the initiator opens and on which the two agents talk.
    public static let control = StreamID(rawValue: 0)

    var index: UInt64 { self.rawValue >> 2 }
    var isUnidirectional: Bool { self.rawValue & 0b10 != 0 }
    var opener: Role { self.rawValue & 1 == 0 ? .initiator : .responder }

    public static func < (left: StreamID, right: StreamID) -> Bool { left.rawValue < right.rawValue }
}
