/// Finds where a mapping's key occurs for the second time. The parser reports only the first place, and the second is
/// usually the one that the user has just written.
struct DuplicateKey {
    private let key: [Unicode.Scalar]
    private let first: Position
    private let text: [Unicode.Scalar]

    /// - Parameter first: counted from 1, in Unicode scalars, as the parser does.
    init(_ key: String, at first: Position, in text: String) {
        self.key = Array(key.unicodeScalars)
        self.first = first
        self.text = Array(text.unicodeScalars)
    }

    /// Nil: not found, for example because the two are written differently (one in quotes).
    var second: Position? {
        guard let start = self.start(ofLine: self.first.line) else { return nil }
        let begin = start + self.first.column - 1
        guard begin < self.text.endIndex, let end = self.end(ofKeyAt: begin) else { return nil }
        return self.inBlock(after: end) ?? self.inFlow(from: begin, after: end)
    }

    /// In block style all keys of a mapping begin in the same column, each at the beginning of its line.
    private func inBlock(after index: Int) -> Position? {
        var line = self.first.line
        var index = index
        while let newline = self.text[index...].firstIndex(where: Self.isNewline) {
            index = self.afterNewline(newline)
            line += 1
            let blanks = self.text[index...].prefix { $0 == " " }.count
            let begin = index + blanks
            guard begin < self.text.endIndex else { return nil }
            if Self.isNewline(self.text[begin]) || self.text[begin] == "#" { continue }
            let column = blanks + 1
            // A list's dashes may stand in the column of its key, so such a line doesn't end the mapping.
            if column < self.first.column { return nil }
            if column == self.first.column, self.end(ofKeyAt: begin) != nil {
                return Position(line: line, column: column)
            }
        }
        return nil
    }

    /// In flow style the key is searched within the same braces; nested brackets and quoted text are skipped.
    private func inFlow(from begin: Int, after index: Int) -> Position? {
        var position = self.first
        position.column += index - begin
        var depth = 0
        var quote: Unicode.Scalar?
        var mayBegin = false
        var offset = index
        while offset < self.text.endIndex {
            let scalar = self.text[offset]
            if let open = quote {
                if scalar == "\\", open == "\"" { offset += 1 } else if scalar == open { quote = nil }
            } else if depth == 0, mayBegin, self.end(ofKeyAt: offset) != nil {
                return position
            } else {
                switch scalar {
                case "{", "[": depth += 1
                case "}", "]":
                    depth -= 1
                    if depth < 0 { return nil }
                case "\"", "'": if mayBegin || depth > 0 { quote = scalar }
                default: break
                }
                mayBegin = scalar == "," || (mayBegin && (scalar == " " || Self.isNewline(scalar)))
            }
            offset += 1
            position.column += 1
            if Self.isNewline(scalar) {
                position.line += 1
                position.column = 1
            }
        }
        return nil
    }

    /// The index after the key that stands at `index`, plain or in quotes, if a colon follows.
    private func end(ofKeyAt index: Int) -> Int? {
        var index = index
        let quote = self.text[index] == "\"" || self.text[index] == "'" ? self.text[index] : nil
        if quote != nil { index += 1 }
        guard self.text[index...].starts(with: self.key) else { return nil }
        index += self.key.count
        if let quote {
            guard index < self.text.endIndex, self.text[index] == quote else { return nil }
            index += 1
        }
        let colon = index + self.text[index...].prefix { $0 == " " }.count
        return colon < self.text.endIndex && self.text[colon] == ":" ? index : nil
    }

    private func start(ofLine wanted: Int) -> Int? {
        var index = self.text.startIndex
        for _ in 1..<max(1, wanted) {
            guard let newline = self.text[index...].firstIndex(where: Self.isNewline) else { return nil }
            index = self.afterNewline(newline)
        }
        return index
    }

    private func afterNewline(_ index: Int) -> Int {
        let isPair = self.text[index] == "\r" && index + 1 < self.text.endIndex && self.text[index + 1] == "\n"
        return index + (isPair ? 2 : 1)
    }

    private static func isNewline(_ scalar: Unicode.Scalar) -> Bool { scalar == "\n" || scalar == "\r" }
}
