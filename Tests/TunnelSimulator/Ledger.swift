import Tunnel

/// What was written to every stream, and what was read from it, recorded outside of both ends.
final class Ledger {
    struct Key: Hashable {
        var connection: UInt64
        var stream: StreamID
        var sender: Role
    }

    enum Outcome {
        case open
        case ended
        case reset
        /// The reader sent STOP_SENDING.
        case stopped
    }

    /// One direction of one stream.
    final class Direction {
        let pattern: Pattern
        var written: UInt64 = 0
        /// The offsets of urgent bytes that were written and not read yet.
        var urgent: Set<UInt64> = []
        var finished = false
        var resetCode: StreamErrorCode?
        var stopCode: StreamErrorCode?
        var read: UInt64 = 0
        var outcome = Outcome.open

        init(pattern: Pattern) { self.pattern = pattern }
    }

    /// Connections at which an end has sent a TCP reset before the bytes ahead of it were acknowledged.
    var withForcedResets: Set<UInt64> = []
    private(set) var directions: [Key: Direction] = [:]
    private var datagramDirections: [Key: DatagramTraffic.Direction] = [:]

    /// Datagrams belong to no stream; their key uses stream 0, which always exists.
    func datagrams(_ connection: UInt64, from sender: Role) -> DatagramTraffic.Direction {
        let key = Key(connection: connection, stream: .control, sender: sender)
        if let known = self.datagramDirections[key] { return known }
        let direction = DatagramTraffic.Direction(seed: SeededRandom.mix(connection ^ (sender == .initiator ? 1 : 2)))
        self.datagramDirections[key] = direction
        return direction
    }

    func direction(_ connection: UInt64, _ stream: StreamID, from sender: Role, pattern: UInt64) -> Direction {
        let key = Key(connection: connection, stream: stream, sender: sender)
        if let known = self.directions[key] { return known }
        let direction = Direction(pattern: Pattern(base: pattern))
        self.directions[key] = direction
        return direction
    }
}
