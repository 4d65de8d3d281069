import NIOCore

/// Limits the log lines for a condition that comes and goes: its coming is logged at most once a minute, its end only if
/// its coming was logged.
struct RareNews {
    private var isTold = false
    private var mayTellAt: NIODeadline?

    private static let interval = TimeAmount.minutes(1)

    mutating func mayTellItCame(at now: NIODeadline) -> Bool {
        guard !self.isTold, self.mayTellAt.map({ now >= $0 }) ?? true else { return false }
        self.isTold = true
        self.mayTellAt = now + Self.interval
        return true
    }

    mutating func mayTellItWent() -> Bool {
        defer { self.isTold = false }
        return self.isTold
    }
}
