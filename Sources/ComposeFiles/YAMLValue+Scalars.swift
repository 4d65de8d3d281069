import Environments

extension YAMLValue {
    /// How compose writes a plain number or boolean where it needs a string: 1.10 is 1.1, 010 is 8, True is true. Nil: the
    /// value is text already.
    var writtenAnew: String? {
        guard case .scalar(let text, isPlain: true) = self.kind else { return nil }
        switch text {
        case "true", "True", "TRUE": return "true"
        case "false", "False", "FALSE": return "false"
        case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF": return "+Inf"
        case "-.inf", "-.Inf", "-.INF": return "-Inf"
        case ".nan", ".NaN", ".NAN": return "NaN"
        default: break
        }
        guard let first = text.utf8.first, first.isDigit || [0x2B, 0x2D, 0x2E].contains(first) else { return nil }
        let plain = text.filter { $0 != "_" }
        return Self.integer(plain) ?? Self.float(plain)
    }

    /// Decimal, or with the prefix 0x, 0o, 0b or, as in YAML 1.1, 0.
    private static func integer(_ text: String) -> String? {
        var digits = text[...]
        let sign = digits.first == "-" || digits.first == "+" ? digits.removeFirst() : "+"
        var radix = 10
        for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2), ("0", 8)]
        where digits.count > prefix.count && digits.lowercased().hasPrefix(prefix) {
            radix = base
            digits = digits.dropFirst(prefix.count)
            break
        }
        // `UInt64` would accept a second sign.
        guard digits.first?.isLetter == true || digits.first?.isNumber == true,
            let number = UInt64(digits, radix: radix)
        else { return nil }
        guard sign == "-" else { return "\(number)" }
        return number <= UInt64(Int64.max) + 1 ? (number == 0 ? "0" : "-\(number)") : nil
    }

    private static func float(_ text: String) -> String? {
        let bytes = text.utf8
        guard bytes.allSatisfy({ $0.isDigit || [0x2B, 0x2D, 0x2E, 0x45, 0x65].contains($0) }),
            bytes.prefix(while: { $0 != 0x45 && $0 != 0x65 }).contains(where: \.isDigit),
            let number = Double(Self.complete(text)), number.isFinite
        else { return nil }
        return Self.text(of: number)
    }

    /// Adds the missing digit of `5.` and `.5`, which `Double` needs.
    private static func complete(_ text: String) -> String {
        var text = text
        if let point = text.firstIndex(of: ".") {
            let after = text.index(after: point)
            if after == text.endIndex || text[after] == "e" || text[after] == "E" { text.insert("0", at: after) }
            if point == text.startIndex || text[text.index(before: point)] == "-"
                || text[text.index(before: point)] == "+"
            {
                text.insert("0", at: point)
            }
        }
        return text
    }

    /// The shortest digits that identify the number, with an exponent below 1e-4 and from 1e6 on.
    private static func text(of number: Double) -> String {
        if number == 0 { return number.sign == .minus ? "-0" : "0" }
        let parts = "\(number.magnitude)".split(separator: "e")
        let mantissa = parts.first ?? "0"
        var exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        let point = mantissa.firstIndex(of: ".") ?? mantissa.endIndex
        exponent += mantissa.distance(from: mantissa.startIndex, to: point) - 1
        var digits = mantissa.filter { $0 != "." }[...]
        while digits.first == "0" {
            digits.removeFirst()
            exponent -= 1
        }
        while digits.last == "0" { digits.removeLast() }
        let sign = number < 0 ? "-" : ""
        guard exponent >= -4, exponent < 6 else {
            let rest = digits.dropFirst()
            let size = abs(exponent)
            return sign + digits.prefix(1) + (rest.isEmpty ? "" : ".\(rest)")
                + "e\(exponent < 0 ? "-" : "+")\(size < 10 ? "0" : "")\(size)"
        }
        guard exponent >= 0 else { return sign + "0." + String(repeating: "0", count: -exponent - 1) + digits }
        let whole = digits.prefix(exponent + 1)
        let fraction = digits.dropFirst(exponent + 1)
        return sign + whole + String(repeating: "0", count: exponent + 1 - whole.count)
            + (fraction.isEmpty ? "" : ".\(fraction)")
    }
}
