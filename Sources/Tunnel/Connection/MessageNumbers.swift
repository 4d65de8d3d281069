import Noise

/// The numbers of a connection's messages, over all its sessions. A number is its message's nonce: each is taken once.
struct MessageNumbers: ~Copyable {
    /// The next number that is sent, unless it is skipped.
    private(set) var next: UInt64
    /// Never sent. About one number in 512 is skipped, chosen at random, so that the peer can't tell which: an acknowledgement
    /// of it shows that the peer acknowledges what it has not received.
    private(set) var nextSkipped: UInt64
    private(set) var highestReceived: UInt64?

    init(from first: UInt64 = 0, random: RandomSource) {
        self.next = first
        self.nextSkipped = Self.drawSkipped(after: first, random)
    }

    private static func drawSkipped(after number: UInt64, _ random: RandomSource) -> UInt64 {
        number + 1 + random.next() % (2 * Constants.skipInterval)
    }

    /// The last numbers are reserved for CONNECTION_CLOSE and its repetitions.
    var areUsedUp: Bool { self.next >= Constants.greatestCounter - 2 * Constants.skipInterval }

    /// - Returns: the number of the message that is sealed now, and the one that was skipped before it, if any.
    mutating func take(_ random: RandomSource) -> (number: UInt64, skipped: UInt64?) {
        defer { self.next += 1 }
        guard self.next == self.nextSkipped else { return (self.next, nil) }
        self.next += 1
        self.nextSkipped = Self.drawSkipped(after: self.next, random)
        return (self.next, self.next - 1)
    }

    /// Whether this number is higher than all that were received; remembers it if so.
    mutating func isNewest(_ number: UInt64) -> Bool {
        guard self.highestReceived.map({ number > $0 }) ?? true else { return false }
        self.highestReceived = number
        return true
    }
}
