import Libc

/// UTC with milliseconds, RFC 3339: `2026-11-22T21:40:03.123Z`.
struct Timestamp: CustomStringConvertible {
    var seconds: Int
    var nanoseconds: Int

    static var now: Timestamp {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(seconds: time.tv_sec, nanoseconds: time.tv_nsec)
    }

    var description: String {
        var seconds: time_t = self.seconds
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let milliseconds = "\(1_000 + self.nanoseconds / 1_000_000)".dropFirst()
        return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
            + "T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(milliseconds)Z"
    }
}
