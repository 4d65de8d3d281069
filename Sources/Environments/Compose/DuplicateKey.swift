/// Where a key of a mapping stands for the second time. The parser tells the first place only, and the second is the one that
/// somebody has just written.
struct DuplicateKey {
    private let key: [Unicode.Scalar]
    private let first: Position
    private let text: [Unicode.Scalar]

    /// - Parameter first: from 1, in scalars, as the parser counts.
    init(_ key: String, at first: Position, in text: String) {
        self.key = Array(key.unicodeScalars)
        self.first = first
        self.text = Array(text.unicodeScalars)
    }

    /// Nil: it isn't found, such as one that is written in two ways.
    var second: Position? {
        guard let start = self.start(ofLine: self.first.line) else { return nil }
        let begin = start + self.first.column - 1
        guard begin < self.text.endIndex, let end = self.end(ofKeyAt: begin) else { return nil }
        return self.inBlock(after: end) ?? self.inFlow(from: begin, after: end)
    }

    /// In a block each key of a mapping stands in the same column, at the beginning of its line.
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
            // A list may stand in its key's own column.
            if column < self.first.column { return nil }
            if column == self.first.column, self.end(ofKeyAt: begin) != nil {
                return Position(line: line, column: column)
            }
        }
        return nil
    }

    /// Between the same braces: what lies in other brackets or in quotes is skipped.
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

    /// Behind the key that stands there, plain or in quotes, and is followed by a colon.
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
