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

/// A handshake's timestamp: 12 bytes that sort by time (WireGuard's paper, §5.1).
public struct TAI64N: Hashable, Comparable, Sendable {
    public static let byteCount = 12

    private(set) var seconds: UInt64
    private(set) var fraction: UInt32

    /// From Unix time. Times before 1970 read as 1970.
    public init(unixSeconds: Int64, nanoseconds: UInt32) {
        self.seconds = (1 << 62) + 10 + UInt64(max(0, unixSeconds))
        self.fraction = min(nanoseconds, 999_999_999)
    }

    init?(reading bytes: inout ByteBuffer) {
        guard let (seconds, fraction) = bytes.readMultipleIntegers(as: (UInt64, UInt32).self) else { return nil }
        self.seconds = seconds
        self.fraction = fraction
    }

    func write(into bytes: inout ByteBuffer) { bytes.writeMultipleIntegers(self.seconds, self.fraction) }

    /// The next representable time: it is sent when the clock has gone back since the last handshake.
    var successor: TAI64N {
        var next = self
        if next.fraction >= 999_999_999 {
            next.seconds &+= 1
            next.fraction = 0
        } else {
            next.fraction += 1
        }
        return next
    }

    public static func < (left: TAI64N, right: TAI64N) -> Bool {
        (left.seconds, left.fraction) < (right.seconds, right.fraction)
    }

    public var nanoseconds: UInt32 { self.fraction }

    /// Seconds since 1970, for a log line. A peer may have sent anything.
    public var unixSeconds: Int64 { Int64(clamping: self.seconds &- ((1 << 62) + 10)) }
}
