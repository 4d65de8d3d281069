import InterceptModel

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
        guard let then = UTCTime(rfc3339: text) else { return "?" }
        let seconds = max(0, UTCTime.now.seconds - then.seconds)
        switch seconds {
        case ..<60: return "\(seconds)s"
        case ..<3_600: return "\(seconds / 60)m"
        case ..<86_400: return "\(seconds / 3_600)h"
        default: return "\(seconds / 86_400)d"
        }
    }

    /// In this machine's time zone: "2026-11-22 21:40:03".
    static func local(_ text: String) -> String { UTCTime(rfc3339: text)?.local ?? text.printable }

    /// "21:40" if it is today, otherwise with the date.
    static func short(_ text: String) -> String { UTCTime(rfc3339: text)?.shortLocal ?? text.printable }

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
