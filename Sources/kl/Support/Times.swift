import InterceptProtocol
import Libc

/// Formats times and numbers for people.
enum Times {
    /// "0.04 s", "1.2 s"
    static func seconds(_ value: Double) -> String {
        let decimals = value < 0.095 ? 2 : 1
        return "\(Self.fixed(value, decimals)) s"
    }

    static func fixed(_ value: Double, _ decimals: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "?" }
        var factor = 1
        for _ in 0..<decimals { factor *= 10 }
        let scaled = Int((abs(value) * Double(factor)).rounded())
        let whole = "\(value < 0 && scaled > 0 ? "-" : "")\(scaled / factor)"
        guard decimals > 0 else { return whole }
        let rest = "\(scaled % factor)"
        return whole + "." + String(repeating: "0", count: decimals - rest.count) + rest
    }

    /// "2m", "3h", "4d": the time since an RFC 3339 time in UTC.
    static func age(of text: String) -> String {
        guard let then = Self.unixSeconds(text) else { return "?" }
        let seconds = max(0, Int(time(nil)) - then)
        switch seconds {
        case ..<60: return "\(seconds)s"
        case ..<3_600: return "\(seconds / 60)m"
        case ..<86_400: return "\(seconds / 3_600)h"
        default: return "\(seconds / 86_400)d"
        }
    }

    /// In this machine's time zone: "2026-11-22 21:40:03".
    static func local(_ text: String) -> String {
        guard let parts = Self.localParts(text) else { return text.printable }
        return Self.date(parts) + " " + Self.clock(parts) + ":" + Self.two(parts.tm_sec)
    }

    /// "21:40" if it is today, otherwise with the date.
    static func short(_ text: String) -> String {
        guard let parts = Self.localParts(text) else { return text.printable }
        var now = time(nil)
        var today = tm()
        localtime_r(&now, &today)
        let isToday = (today.tm_year, today.tm_yday) == (parts.tm_year, parts.tm_yday)
        return isToday ? Self.clock(parts) : Self.date(parts) + " " + Self.clock(parts)
    }

    private static func localParts(_ text: String) -> tm? {
        guard var seconds: time_t = Self.unixSeconds(text) else { return nil }
        var parts = tm()
        localtime_r(&seconds, &parts)
        return parts
    }

    private static func date(_ parts: tm) -> String {
        "\(parts.tm_year + 1900)-\(Self.two(parts.tm_mon + 1))-\(Self.two(parts.tm_mday))"
    }

    private static func clock(_ parts: tm) -> String { "\(Self.two(parts.tm_hour)):\(Self.two(parts.tm_min))" }

    private static func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }

    /// Parses RFC 3339 in UTC, with or without fractions of a second.
    static func unixSeconds(_ text: String) -> Int? {
        let bytes = Array(text.utf8)
        func number(_ range: Range<Int>) -> Int? {
            guard bytes.count >= range.upperBound else { return nil }
            return Int(String(decoding: bytes[range], as: UTF8.self))
        }
        guard bytes.last == UInt8(ascii: "Z"), let year = number(0..<4), let month = number(5..<7),
            let day = number(8..<10), let hour = number(11..<13), let minute = number(14..<16),
            let second = number(17..<19)
        else { return nil }
        var parts = tm()
        parts.tm_year = CInt(year - 1900)
        parts.tm_mon = CInt(month - 1)
        parts.tm_mday = CInt(day)
        parts.tm_hour = CInt(hour)
        parts.tm_min = CInt(minute)
        parts.tm_sec = CInt(second)
        return Int(timegm(&parts))
    }

    /// "12.4 MiB"
    static func bytes(_ count: UInt64) -> String {
        let units = ["KiB", "MiB", "GiB", "TiB"]
        guard count >= 1_024 else { return "\(count) B" }
        var value = Double(count) / 1_024
        var unit = 0
        while value >= 1_024, unit < units.count - 1 {
            value /= 1_024
            unit += 1
        }
        return "\(Self.fixed(value, 1)) \(units[unit])"
    }

    /// "10,211"
    static func grouped(_ count: UInt64) -> String {
        var digits = Array("\(count)")
        var index = digits.count - 3
        while index > 0 {
            digits.insert(",", at: index)
            index -= 3
        }
        return String(digits)
    }
}
