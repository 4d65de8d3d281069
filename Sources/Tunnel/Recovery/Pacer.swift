import NIOCore

/// Spreads messages over the round trip (RFC 9002 §7.7): a token bucket that fills at the pacing rate and holds one burst.
struct Pacer {
    private var messageSize: Int
    /// Bytes a second; 0: not known yet, so nothing is held back.
    private var rate = 0.0
    private var tokens = 0.0
    private var filledAt: Instant?

    /// An event loop's timers fire about a millisecond late, which a burst makes up for. †
    private static let burstSeconds = 0.002
    private static let burstMessages = 10
    /// Four of the largest batches that the kernel takes at once. †
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

    /// When the next message may be sent; nil: now.
    mutating func nextSendTime(for size: Int, at now: Instant) -> Instant? {
        guard self.rate > 0 else { return nil }
        self.fill(at: now)
        // A message may take the tokens below zero: its size matters little to the spacing, and a wake-up is saved.
        guard self.tokens <= 0 else { return nil }
        // Waits until up to half a burst can be sent, so that few wake-ups send much.
        let wanted = min(self.burst / 2, Double(max(size, self.messageSize)))
        let seconds = min(10, (wanted - self.tokens) / self.rate)
        return now + .nanoseconds(Int64(seconds * 1e9) + 1)
    }

    mutating func sent(_ bytes: Int, at now: Instant) {
        guard self.rate > 0 else { return }
        self.fill(at: now)
        // PTO probes are sent without asking the pacer: their tokens are taken, but the debt is bounded.
        self.tokens = max(self.tokens - Double(bytes), -self.burst)
    }

    mutating func update(rate: Double, messageSize: Int, at now: Instant) {
        self.fill(at: now)
        self.rate = max(1, rate)
        self.messageSize = messageSize
    }
}
