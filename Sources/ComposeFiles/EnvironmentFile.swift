import Environments

/// Parses a file of variables (`.env`, `env_file`) as compose does: `NAME=VALUE` or `NAME: VALUE`, optionally after the
/// word `export`, a NAME alone, `#` comments, and values in quotes, which may span several lines.
struct EnvironmentFile {
    struct Line: Equatable {
        var name: String
        /// Nil: a name alone, which takes its value from the environment of the reader's caller.
        var value: String?
        /// In single quotes, so variables in it aren't expanded.
        var isLiteral: Bool
        /// The position of its beginning.
        var line: Int
        var column: Int
    }

    static func parse(_ text: String, file: Int = 0) throws(Fault) -> [Line] {
        var parser = EnvironmentFile(text, file: file)
        var result: [Line] = []
        while let line = try parser.next() { result.append(line) }
        return result
    }

    private let text: [Unicode.Scalar]
    private let file: Int
    private var index = 0
    private var line = 1
    private var lineStart = 0

    private init(_ text: String, file: Int) {
        let scalars = Array(text.unicodeScalars)
        // A byte order mark, which some editors write.
        self.text = scalars.first == "\u{FEFF}" ? Array(scalars.dropFirst()) : scalars
        self.file = file
    }

    private var position: Position {
        Position(line: self.line, column: self.index - self.lineStart + 1, file: self.file)
    }

    private var current: Unicode.Scalar? { self.index < self.text.endIndex ? self.text[self.index] : nil }

    private mutating func advance() {
        if self.current == "\n" {
            self.line += 1
            self.lineStart = self.index + 1
        }
        self.index += 1
    }

    private mutating func skip(while condition: (Unicode.Scalar) -> Bool) {
        while let scalar = self.current, condition(scalar) { self.advance() }
    }

    /// As in compose, text that follows a quoted value on the same line is parsed as a line of its own.
    private mutating func next() throws(Fault) -> Line? {
        while true {
            self.skip { $0.properties.isWhitespace }
            guard self.current == "#" else { break }
            self.skip { $0 != "\n" }
        }
        guard self.current != nil else { return nil }
        if self.isExport {
            self.index += 6
            self.skip { Self.isBlank($0) }
        }
        let position = self.position
        let begin = self.index
        self.skip { Self.isBlank($0) || Self.isOfName($0) }
        let name = Self.text(Self.trimmed(self.text[begin..<self.index]))
        let end = self.current
        guard end == nil || end == "=" || end == ":" || end == "\n" else {
            throw Fault(position, "\(self.restOfLine(from: begin).quoted) sets no variable. Write NAME=VALUE.")
        }
        guard !name.isEmpty || end == "\n" || end == nil else {
            throw Fault(position, "a value has no name before it. Write NAME=VALUE.")
        }
        guard !name.unicodeScalars.contains(where: Self.isBlank) else {
            throw Fault(
                position,
                "the name \(name.quoted) holds a blank. Write NAME=VALUE, a value with blanks in quotes."
            )
        }
        guard end == "=" || end == ":" else {
            return Line(name: name, isLiteral: true, line: position.line, column: position.column)
        }
        self.advance()
        self.skip { Self.isBlank($0) }
        let isLiteral = self.current == "'"
        let value = self.current == "\"" || isLiteral ? try self.quoted() : self.unquoted()
        return Line(name: name, value: value, isLiteral: isLiteral, line: position.line, column: position.column)
    }

    private var isExport: Bool {
        let rest = self.text[self.index...]
        return rest.starts(with: "export".unicodeScalars) && rest.dropFirst(6).first.map(Self.isBlank) == true
    }

    /// Ends at the end of the line, or at a `#` after a blank. A `#` at the beginning belongs to the value: a colour, say.
    private mutating func unquoted() -> String {
        let begin = self.index
        self.skip { $0 != "\n" }
        var value = self.text[begin..<self.index]
        if let hash = value.indices.dropFirst().first(where: { value[$0] == "#" && value[$0 - 1] == " " }) {
            value = value[..<hash]
        }
        return Self.text(Self.trimmed(value))
    }

    private mutating func quoted() throws(Fault) -> String {
        let begin = self.position
        let quote = self.current
        self.advance()
        var result = String.UnicodeScalarView()
        while let scalar = self.current {
            self.advance()
            if scalar == quote {
                return quote == "\"" ? EnvironmentEscapes.replaced(in: result) : String(result)
            }
            result.append(scalar)
            guard scalar == "\\", let next = self.current else { continue }
            if next == quote { result.removeLast() }
            result.append(next)
            self.advance()
        }
        throw Fault(begin, "a value's quotes aren't closed. Close them.")
    }

    private func restOfLine(from begin: Int) -> String {
        Self.text(self.text[begin...].prefix { $0 != "\n" })
    }

    private static func text(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        String(String.UnicodeScalarView(scalars))
    }

    /// Letters and digits of any language, and `_ . - [ ]`.
    private static func isOfName(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.isASCII {
            return UInt8(ascii: scalar).isAlphanumeric || ["_", ".", "-", "[", "]"].contains(scalar)
        }
        return switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter, .decimalNumber,
            .letterNumber, .otherNumber:
            true
        default: false
        }
    }

    /// White space other than a line feed.
    private static func isBlank(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar {
        case " ", "\t", "\u{0B}", "\u{0C}", "\r", "\u{85}", "\u{A0}": true
        default: false
        }
    }

    private static func trimmed(_ text: ArraySlice<Unicode.Scalar>) -> ArraySlice<Unicode.Scalar> {
        var text = text
        while text.last?.properties.isWhitespace == true { text.removeLast() }
        return text
    }
}

/// Replaces escapes in double quotes: `\n`, `\t`, `\"`, `\\`, `\$`, `\0101` … Any other backslash stays.
private enum EnvironmentEscapes {
    static func replaced(in text: String.UnicodeScalarView) -> String {
        var result = String.UnicodeScalarView()
        var rest = text[...]
        while let scalar = rest.popFirst() {
            guard scalar == "\\", let next = rest.first else {
                result.append(scalar)
                continue
            }
            if next == "0" {
                rest.removeFirst()
                let digits = rest.prefix(3).prefix { ("0"..."9").contains($0) }
                rest = rest.dropFirst(digits.count)
                // As in compose, the zero is dropped even if three octal digits don't follow.
                if digits.count == 3, let number = UInt8(String(digits), radix: 8) {
                    result.append(Unicode.Scalar(number))
                } else {
                    result.append("\\")
                    result.append(contentsOf: digits)
                }
            } else if let meaning = Self.meanings[next] {
                rest.removeFirst()
                result.append(contentsOf: meaning.unicodeScalars)
            } else {
                result.append(scalar)
            }
        }
        return String(result)
    }

    /// An escaped dollar sign becomes `$$`, since variables are expanded afterwards.
    private static let meanings: [Unicode.Scalar: String] = [
        "a": "\u{07}", "b": "\u{08}", "f": "\u{0C}", "n": "\n", "r": "\r", "t": "\t", "v": "\u{0B}", "$": "$$",
        "\"": "\"", "\\": "\\",
    ]
}
