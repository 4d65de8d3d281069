import Libc

/// A time to show to people, in whole seconds.
struct Moment: Equatable {
    private let seconds: time_t

    static var now: Moment { Moment(seconds: time(nil)) }

    private init(seconds: time_t) { self.seconds = seconds }

    /// Parses the form that `rfc3339` has, and no other.
    init?(rfc3339 text: String) {
        // 2026-11-22T21:40:03Z
        let marks: [Int: UInt8] = [4: 45, 7: 45, 10: 84, 13: 58, 16: 58, 19: 90]
        let bytes = Array(text.utf8)
        let isDigit = { (byte: UInt8) in (48...57).contains(byte) }
        guard bytes.count == 20,
            bytes.enumerated().allSatisfy({ place, byte in marks[place].map { $0 == byte } ?? isDigit(byte) })
        else { return nil }
        let numbers = bytes.split { !isDigit($0) }.map { $0.reduce(CInt(0)) { $0 &* 10 &+ CInt($1) - 48 } }
        guard numbers.count == 6 else { return nil }
        var parts = tm()
        (parts.tm_year, parts.tm_mon, parts.tm_mday) = (numbers[0] - 1900, numbers[1] - 1, numbers[2])
        (parts.tm_hour, parts.tm_min, parts.tm_sec) = (numbers[3], numbers[4], numbers[5])
        self.seconds = timegm(&parts)
    }

    /// UTC.
    var rfc3339: String { Self.format(self.seconds, "%Y-%m-%dT%H:%M:%SZ", gmtime_r) }

    /// In local time; with the date unless it is today.
    var forPeople: String {
        let day = Self.format(self.seconds, "%Y-%m-%d", localtime_r)
        let isToday = day == Self.format(time(nil), "%Y-%m-%d", localtime_r)
        return (isToday ? "" : day + " ") + Self.format(self.seconds, "%H:%M", localtime_r)
    }

    private static func format(
        _ seconds: time_t,
        _ form: String,
        _ split: (UnsafePointer<time_t>, UnsafeMutablePointer<tm>) -> UnsafeMutablePointer<tm>?
    ) -> String {
        var seconds = seconds
        var parts = tm()
        guard split(&seconds, &parts) != nil else { return "" }
        var text = [CChar](repeating: 0, count: 64)
        let count = strftime(&text, text.count, form, &parts)
        return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
