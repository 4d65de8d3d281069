import Environments

/// A duration as compose writes it: `1m30s`, `500ms`, `1.5h`.
enum ComposeDuration {
    /// In seconds. Nil: the text isn't a duration, or it is longer than a day.
    static func seconds(_ text: String) -> Double? {
        if text == "0" { return 0 }
        var rest = text.utf8[...]
        var sum = 0.0
        guard !rest.isEmpty, rest.count <= 64 else { return nil }
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isDigit || $0 == UInt8(ascii: ".") }
            rest = rest.dropFirst(digits.count)
            let unit = rest.prefix { $0.isLetter }
            rest = rest.dropFirst(unit.count)
            guard let number = Double(String(Substring(digits))), let factor = Self.units[String(Substring(unit))]
            else {
                return nil
            }
            sum += number * factor
        }
        return sum.isFinite && sum <= 86_400 ? sum : nil
    }

    private static let units = ["h": 3_600.0, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "d": 86_400]
}
