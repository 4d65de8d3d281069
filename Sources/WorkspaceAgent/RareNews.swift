import NIOCore

/// Something that comes and goes, for a log: that it has come is told once a minute at most, and that it has gone if its coming
/// was told.
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
