/// Writes numbers in YAML without exponents, for people and small parsers: the encoder writes 0.984 as 9.84e-1. A string
/// that looks like a number is in quotes, so an unquoted value is a number.
enum PlainNumbers {
    static func text(of yaml: String) -> String {
        yaml.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            guard let blank = line.lastIndex(of: " "), line[..<blank].hasSuffix(":") || line[..<blank].hasSuffix("-"),
                let number = Self.plain(line[line.index(after: blank)...])
            else { return String(line) }
            return line[...blank] + number
        }
        .joined(separator: "\n")
    }

    /// "9.84e-1" as "0.984", with the same digits; nil: it isn't of that form.
    static func plain(_ text: Substring) -> String? {
        let parts = text.lowercased().split(separator: "e", omittingEmptySubsequences: false)
        guard parts.count == 2, let exponent = Int(parts[1]), abs(exponent) < 400 else { return nil }
        let isNegative = parts[0].hasPrefix("-")
        let hasSign = isNegative || parts[0].hasPrefix("+")
        let halves = parts[0].dropFirst(hasSign ? 1 : 0).split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(halves.count), let whole = halves.first, !whole.isEmpty,
            halves.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } })
        else { return nil }
        var digits = Array(whole + (halves.count == 2 ? halves[1] : ""))
        var point = whole.count + exponent
        if point <= 0 {
            digits = [Character](repeating: "0", count: 1 - point) + digits
            point = 1
        }
        while digits.count < point { digits.append("0") }
        while digits.count > point, digits.last == "0" { digits.removeLast() }
        while point > 1, digits.first == "0" {
            digits.removeFirst()
            point -= 1
        }
        let rest = digits[point...]
        return (isNegative ? "-" : "") + String(digits[..<point]) + (rest.isEmpty ? ".0" : "." + String(rest))
    }
}
