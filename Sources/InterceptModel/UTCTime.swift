import Libc

/// A time of day in UTC, to store and to show: written as RFC 3339 has it, by every program here.
public struct UTCTime: Hashable, Comparable, Sendable {
    /// Since 1970, leap seconds not counted.
    public let seconds: Int
    /// 0 to 999.
    public let milliseconds: Int

    public init(seconds: Int, milliseconds: Int = 0) {
        self.seconds = seconds
        self.milliseconds = milliseconds
    }

    public static func < (left: UTCTime, right: UTCTime) -> Bool {
        (left.seconds, left.milliseconds) < (right.seconds, right.milliseconds)
    }

    /// Negative if it is before the other.
    public func milliseconds(after other: UTCTime) -> Int64 {
        Int64(clamping: self.seconds - other.seconds) * 1_000 + Int64(self.milliseconds - other.milliseconds)
    }

    public static var now: UTCTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UTCTime(seconds: time.tv_sec, milliseconds: time.tv_nsec / 1_000_000)
    }

    /// Parses `2026-11-22T21:40:03Z`, with or without a fraction of a second (what is beyond milliseconds is dropped).
    public init?(rfc3339 text: some StringProtocol) {
        var bytes = Array(text.utf8)
        guard bytes.popLast() == UInt8(ascii: "Z"), bytes.count >= 19 else { return nil }
        let marks = [4: "-", 7: "-", 10: "T", 13: ":", 16: ":", 19: "."].mapValues { UInt8(ascii: $0) }
        let isDigit = { (byte: UInt8) in (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
        guard bytes.enumerated().allSatisfy({ place, byte in marks[place].map { $0 == byte } ?? isDigit(byte) }),
            bytes.count == 19 || (21...29).contains(bytes.count)
        else { return nil }
        // All but the marks is digits, and few enough for any integer.
        func number(_ digits: some Sequence<UInt8>) -> CInt {
            digits.reduce(0) { $0 * 10 + CInt($1 - UInt8(ascii: "0")) }
        }
        var parts = tm()
        parts.tm_year = number(bytes[0..<4]) - 1900
        parts.tm_mon = number(bytes[5..<7]) - 1
        parts.tm_mday = number(bytes[8..<10])
        parts.tm_hour = number(bytes[11..<13])
        parts.tm_min = number(bytes[14..<16])
        parts.tm_sec = number(bytes[17..<19])
        let fraction = (bytes.dropFirst(20).prefix(3) + [48, 48, 48]).prefix(3)
        self.init(seconds: timegm(&parts), milliseconds: Int(number(fraction)))
    }

    /// In whole seconds: `2026-11-22T21:40:03Z`.
    public var rfc3339: String { self.dateAndTime + "Z" }

    /// `2026-11-22T21:40:03.123Z`
    public var rfc3339WithMilliseconds: String {
        "\(self.dateAndTime).\("\(1_000 + self.milliseconds)".dropFirst())Z"
    }

    private var dateAndTime: String {
        let parts = self.parts(gmtime_r)
        return "\(Self.date(parts))T\(Self.clock(parts)):\(Self.two(parts.tm_sec))"
    }

    /// In this machine's time zone: `2026-11-22 21:40:03`.
    public var local: String {
        let parts = self.parts(localtime_r)
        return "\(Self.date(parts)) \(Self.clock(parts)):\(Self.two(parts.tm_sec))"
    }

    /// In this machine's time zone: `21:40` if it is today, otherwise with the date.
    public var shortLocal: String {
        let parts = self.parts(localtime_r)
        let today = Self.now.parts(localtime_r)
        let isToday = (today.tm_year, today.tm_yday) == (parts.tm_year, parts.tm_yday)
        return isToday ? Self.clock(parts) : "\(Self.date(parts)) \(Self.clock(parts))"
    }

    private func parts(
        _ split: (UnsafePointer<time_t>, UnsafeMutablePointer<tm>) -> UnsafeMutablePointer<tm>?
    ) -> tm {
        var seconds: time_t = self.seconds
        var parts = tm()
        _ = split(&seconds, &parts)
        return parts
    }

    private static func date(_ parts: tm) -> String {
        "\(parts.tm_year + 1900)-\(Self.two(parts.tm_mon + 1))-\(Self.two(parts.tm_mday))"
    }

    private static func clock(_ parts: tm) -> String { "\(Self.two(parts.tm_hour)):\(Self.two(parts.tm_min))" }

    private static func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }
}
