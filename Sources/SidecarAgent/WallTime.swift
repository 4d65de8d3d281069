import Libc

/// A time of day, to show to people.
struct WallTime {
    private let seconds: time_t

    static var now: WallTime { WallTime(seconds: time(nil)) }

    /// UTC, RFC 3339.
    var rfc3339: String {
        var seconds = self.seconds
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let date = "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
        return "\(date)T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
    }
}
