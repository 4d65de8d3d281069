import InterceptModel

/// One JSON object on one line, its keys in the order given: for ready lines and log records.
public enum JSONLine {
    public enum Value {
        case string(String)
        case bool(Bool)
        case number(Double)
        case integer(UInt64)
        case array([Value])
        case object([(String, Value)])
    }

    public static func object(_ fields: [(String, Value)]) -> String {
        "{" + fields.map { "\(Self.quoted($0.0)):\(Self.text(of: $0.1))" }.joined(separator: ",") + "}"
    }

    public static func text(of value: Value) -> String {
        switch value {
        case .string(let text): Self.quoted(text)
        case .bool(let value): value ? "true" : "false"
        // JSON can't express infinities and NaN.
        case .number(let value): value.isFinite ? "\(value)" : "null"
        case .integer(let value): "\(value)"
        case .array(let values): "[" + values.map { Self.text(of: $0) }.joined(separator: ",") + "]"
        case .object(let fields): Self.object(fields)
        }
    }

    /// RFC 8259 §7. Invisible characters are escaped, so that it is a single line on every terminal.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.isVisible: result.unicodeScalars.append(scalar)
            default: for unit in String(scalar).utf16 { result += Self.escaped(unit) }
            }
        }
        return result + "\""
    }

    private static func escaped(_ unit: UInt16) -> String {
        let hex = String(unit, radix: 16)
        return "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
    }
}
