import NIOCore

/// Spreads messages over the round trip (RFC 9002 §7.7): a bucket that fills at the pacing rate, as deep as a burst.
struct Pacer {
    private var messageSize: Int
    /// Bytes a second; 0: not known yet, and nothing is held back.
    private var rate = 0.0
    private var tokens = 0.0
    private var filledAt: Instant?

    /// An event loop's timers go off about a millisecond late: a burst makes up for that. †
    private static let burstSeconds = 0.002
    private static let burstMessages = 10
    /// Four of the greatest batches that the system takes at once. †
    private static let burstAtMost = 256 * 1_024

    init(messageSize: Int) { self.messageSize = messageSize }

    private var burst: Double {
        let least = Double(Self.burstMessages * min(self.messageSize, 16_416))
        return max(least, min(self.rate * Self.burstSeconds, Double(Self.burstAtMost)))
    }

    private mutating func fill(at now: Instant) {
        guard let filledAt else {
            self.filledAt = now
            self.tokens = self.burst
            return
        }
        guard now > filledAt else { return }
        let seconds = min(10, Double((now - filledAt).nanoseconds) / 1e9)
        self.tokens = min(self.burst, self.tokens + seconds * self.rate)
        self.filledAt = now
    }

    /// nil: now.
    mutating func nextSendTime(for size: Int, at now: Instant) -> Instant? {
        guard self.rate > 0 else { return nil }
        self.fill(at: now)
        // Below zero is a debt that one message may make: its size matters little to the spacing, and saves a wake-up.
        guard self.tokens <= 0 else { return nil }
        // As late as it must be for a good part of a burst to be there, so that few wake-ups send much.
        let wanted = min(self.burst / 2, Double(max(size, self.messageSize)))
        let seconds = min(10, (wanted - self.tokens) / self.rate)
        return now + .nanoseconds(Int64(seconds * 1e9) + 1)
    }

    mutating func sent(_ bytes: Int, at now: Instant) {
        guard self.rate > 0 else { return }
        self.fill(at: now)
        // Probes go out unasked: they are paid for, but never stop the path for long.
        self.tokens = max(self.tokens - Double(bytes), -self.burst)
    }

    mutating func update(rate: Double, messageSize: Int, at now: Instant) {
        self.fill(at: now)
        self.rate = max(1, rate)
        self.messageSize = messageSize
    }
}
