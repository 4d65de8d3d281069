public import NIOCore

/// A point on a clock that the caller reads and hands in; only differences mean anything.
///
/// It must run while the machine sleeps (CLOCK_BOOTTIME on Linux): a key's age counts a night in a closed laptop.
public struct Instant: Hashable, Comparable, Sendable {
    public var nanoseconds: Int64

    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }

    public static func + (instant: Instant, amount: TimeAmount) -> Instant {
        Instant(nanoseconds: instant.nanoseconds &+ amount.nanoseconds)
    }

    public static func - (left: Instant, right: Instant) -> TimeAmount {
        .nanoseconds(left.nanoseconds &- right.nanoseconds)
    }
}

/// The sooner of two deadlines, where either may be absent.
func sooner(_ left: Instant?, _ right: Instant?) -> Instant? {
    guard let left else { return right }
    guard let right else { return left }
    return min(left, right)
}
