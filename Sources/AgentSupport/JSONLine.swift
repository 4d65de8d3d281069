/// One JSON object on one line, with its keys in the order given: for ready lines and log records.
public enum JSONLine {
    public enum Value {
        case string(String)
        case bool(Bool)
        case number(Double)
        case object([(String, Value)])
    }

    public static func object(_ fields: [(String, Value)]) -> String {
        "{" + fields.map { "\(Self.quoted($0.0)):\(Self.text(of: $0.1))" }.joined(separator: ",") + "}"
    }

    private static func text(of value: Value) -> String {
        switch value {
        case .string(let text): Self.quoted(text)
        case .bool(let value): value ? "true" : "false"
        case .number(let value): "\(value)"
        case .object(let fields): Self.object(fields)
        }
    }

    /// RFC 8259 §7.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let hex = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
