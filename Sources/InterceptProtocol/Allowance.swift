public import NIOCore

/// A token bucket: it starts full with `atOnce` tokens, and gets one more each interval.
public struct Allowance: Sendable {
    private let atOnce: Int64
    private let interval: TimeAmount
    private var left: Int64
    private var filledAt: NIODeadline?

    public init(atOnce: Int64, interval: TimeAmount) {
        self.atOnce = atOnce
        self.interval = interval
        self.left = atOnce
    }

    public mutating func take(at now: NIODeadline = .now()) -> Bool {
        let filledAt = self.filledAt ?? now
        let new = min(self.atOnce, max(0, (now - filledAt).nanoseconds / self.interval.nanoseconds))
        let isFull = self.left + new >= self.atOnce
        self.filledAt = isFull ? now : filledAt + .nanoseconds(new * self.interval.nanoseconds)
        self.left = min(self.atOnce, self.left + new)
        guard self.left > 0 else { return false }
        self.left -= 1
        return true
    }

    /// When there is a token again, after a refusal.
    public var next: NIODeadline { (self.filledAt ?? .now()) + self.interval }
}
