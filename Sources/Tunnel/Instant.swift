public import NIOCore

/// A point in time on a clock that the caller reads. Only differences have a meaning.
///
/// The clock must run while the machine sleeps (CLOCK_BOOTTIME on Linux): a night in a closed laptop counts towards a key's
/// age.
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
