import NIOCore
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

/// The message numbers received over all sessions, and when an ACK is due (RFC 9000 §13.2).
struct ReceivedNumbers {
    private var numbers = OffsetRanges()
    private(set) var largest: UInt64?
    private var largestAt = Instant(nanoseconds: 0)
    /// Whether there are ack-eliciting messages that no ACK of ours has named.
    private(set) var hasUnacknowledged = false
    private var bytesUnacknowledged = 0
    private var messagesUnacknowledged = 0
    private var firstUnacknowledgedAt = Instant(nanoseconds: 0)
    private var mustAckNow = false
    /// The smallest number received since the last ACK frame was written, which therefore doesn't name it.
    private var smallestUnnamed: UInt64?
    /// On datagrams, every second ack-eliciting message is acknowledged at once, and also any after a gap (RFC 9000 §13.2.1,
    /// §13.2.2). A byte stream has no gaps, and needs few ACKs.
    private var isPrompt = false
    /// ACK-only messages that were sent since a PING last went with one.
    private var acksAlone = 0

    mutating func receive(_ number: UInt64, ackEliciting: Bool, bytes: Int, at now: Instant) {
        self.numbers.insert(number..<number + 1)
        while self.numbers.count > Constants.ackRangesKept { self.numbers.removeFirst() }
        self.smallestUnnamed = min(self.smallestUnnamed ?? number, number)
        let isInOrder = self.largest.map { number == $0 + 1 } ?? true
        if self.largest.map({ number > $0 }) ?? true {
            self.largest = number
            self.largestAt = now
        }
        guard ackEliciting else { return }
        self.messagesUnacknowledged += 1
        if self.isPrompt, !isInOrder || self.messagesUnacknowledged >= Constants.messagesBeforeAck {
            self.mustAckNow = true
        }
        if !self.hasUnacknowledged {
            self.hasUnacknowledged = true
            self.firstUnacknowledgedAt = now
        }
        self.bytesUnacknowledged += bytes
    }

    /// When an ACK becomes due by time, after 25 ms. nil: none is owed, or it is due already and goes out as soon as it can.
    var deadline: Instant? {
        self.hasUnacknowledged && !self.mustAckNow ? self.firstUnacknowledgedAt + Constants.maxAckDelay : nil
    }

    mutating func handleDeadline(at now: Instant) {
        if let deadline = self.deadline, now >= deadline { self.mustAckNow = true }
    }

    func isDue(at now: Instant) -> Bool {
        guard self.hasUnacknowledged else { return false }
        return self.mustAckNow || self.bytesUnacknowledged >= Constants.bytesBeforeAck
            || now >= self.firstUnacknowledgedAt + Constants.maxAckDelay
    }

    /// An ACK is due on it at once.
    mutating func carrierChanged(to kind: CarrierKind) {
        self.isPrompt = kind == .datagrams
        self.ackSoon()
    }

    /// Makes an ACK due at once.
    mutating func ackSoon() { self.mustAckNow = true }

    /// Repeats the last ACK, which may not have arrived.
    mutating func ackAgain() {
        guard !self.numbers.isEmpty else { return }
        if !self.hasUnacknowledged { self.firstUnacknowledgedAt = self.largestAt }
        self.hasUnacknowledged = true
        self.mustAckNow = true
    }

    /// Writes an ACK frame of at most `room` bytes. Returns the largest number it names; nil if nothing was written.
    mutating func writeAck(into bytes: inout ByteBuffer, room: Int, at now: Instant) -> UInt64? {
        guard let top = self.numbers.last, room >= 32 else { return nil }
        bytes.writeVarInt(FrameType.ack)
        bytes.writeVarInt(top.upperBound - 1)
        let delay = max(0, (now - self.largestAt).nanoseconds / 1_000) >> Int64(Constants.ackDelayExponent)
        bytes.writeVarInt(UInt64(delay))
        // Two varints of at most eight bytes each.
        let count = min(self.numbers.count - 1, (room - 32) / 16)
        bytes.writeVarInt(UInt64(count))
        bytes.writeVarInt(top.upperBound - 1 - top.lowerBound)
        var smallest = top.lowerBound
        for range in self.numbers.ranges.dropLast().suffix(count).reversed() {
            bytes.writeVarInt(smallest - range.upperBound - 1)
            bytes.writeVarInt(range.upperBound - 1 - range.lowerBound)
            smallest = range.lowerBound
        }
        self.nothingIsOwed()
        self.smallestUnnamed = nil
        return top.upperBound - 1
    }

    /// The peer has received our ACK up to this number: the numbers up to it need not be named again (RFC 9000 §13.2.4),
    /// except those that came late and have not been named yet.
    mutating func forget(through number: UInt64) {
        self.numbers.remove(below: min(number + 1, self.smallestUnnamed ?? .max))
        if self.numbers.isEmpty { self.nothingIsOwed() }
    }

    /// Counts a message with only an ACK. True: a PING should go with it. Such messages are never acknowledged themselves, so
    /// the ranges that they name would grow for ever (RFC 9000 §13.2.4).
    mutating func countAckAlone() -> Bool {
        self.acksAlone += 1
        return self.acksAlone >= Constants.acksAloneAtMost
    }

    mutating func pingGoesWithAck() { self.acksAlone = 0 }

    private mutating func nothingIsOwed() {
        self.hasUnacknowledged = false
        self.bytesUnacknowledged = 0
        self.messagesUnacknowledged = 0
        self.mustAckNow = false
    }

    var rangeCount: Int { self.numbers.count }
}
