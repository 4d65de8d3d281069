/// A file of variables (`.env`, `env_file`): `NAME=VALUE` lines, `#` comments, values in quotes where they need them.
enum EnvironmentFile {
    struct Line: Equatable {
        var name: String
        var value: String
        /// In single quotes: variables in it stay as they are.
        var isLiteral: Bool
        var line: Int
    }

    static func parse(_ text: String) throws(Fault) -> [Line] {
        var result: [Line] = []
        for (index, raw) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            var line = Self.trimmed(raw)
            if line.hasPrefix("export ") { line = Self.trimmed(line.dropFirst(7)) }
            if line.isEmpty || line.hasPrefix("#") { continue }
            let position = Position(line: index + 1, column: 1)
            let equals = line.firstIndex(of: "=") ?? line.endIndex
            let name = Self.trimmed(line[..<equals])
            guard equals != line.endIndex, Self.isName(name) else {
                throw Fault(position, "\(String(line).quoted) sets no variable. Write NAME=VALUE.")
            }
            let (value, isLiteral) = try Self.value(Self.trimmed(line[line.index(after: equals)...]), at: position)
            result.append(Line(name: String(name), value: value, isLiteral: isLiteral, line: index + 1))
        }
        return result
    }

    private static func value(_ text: Substring, at position: Position) throws(Fault) -> (String, isLiteral: Bool) {
        guard let quote = text.first, quote == "\"" || quote == "'" else {
            var end = text.startIndex
            while let hash = text[end...].firstIndex(of: "#") {
                if hash == text.startIndex || text[..<hash].last?.isWhitespace == true {
                    return (String(Self.trimmed(text[..<hash])), false)
                }
                end = text.index(after: hash)
            }
            return (String(text), false)
        }
        var result = ""
        var rest = text.dropFirst()
        while let character = rest.popFirst() {
            if character == quote {
                let after = Self.trimmed(rest)
                guard after.isEmpty || after.hasPrefix("#") else { break }
                return (result, quote == "'")
            }
            guard character == "\\", quote == "\"", let next = rest.popFirst() else {
                result.append(character)
                continue
            }
            switch next {
            case "n": result.append("\n")
            case "r": result.append("\r")
            case "t": result.append("\t")
            case "$": result += "$$"
            default: result.append(next)
            }
        }
        throw Fault(position, "a value's quotes aren't closed at its end. Close them.")
    }

    private static func isName(_ text: Substring) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "=") }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop(while: \.isWhitespace)
        while text.last?.isWhitespace == true { text.removeLast() }
        return text
    }
}
