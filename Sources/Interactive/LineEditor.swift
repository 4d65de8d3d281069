/// A line that is being edited, with its cursor.
struct LineEditor: Equatable, Sendable {
    private(set) var characters: [Character] = []
    /// The index of the character before which typing inserts; `characters.count` is the end.
    private(set) var cursor = 0

    /// In characters. No name or address is longer (DNS: 253).
    static let longest = 300

    init(_ text: String = "") {
        self.characters = Array(text.prefix(Self.longest))
        self.cursor = self.characters.count
    }

    var text: String { String(self.characters) }
    var isEmpty: Bool { self.characters.isEmpty }

    mutating func clear() { self = LineEditor() }

    /// False: the key doesn't edit a line.
    mutating func handle(_ key: Key) -> Bool {
        switch key {
        case .character(let character): self.insert(character)
        case .backspace: self.removeBefore(from: self.cursor - 1)
        case .delete, .control("d"): if self.cursor < self.characters.count { self.characters.remove(at: self.cursor) }
        case .left, .control("b"): self.cursor = max(0, self.cursor - 1)
        case .right, .control("f"): self.cursor = min(self.characters.count, self.cursor + 1)
        case .home, .control("a"): self.cursor = 0
        case .end, .control("e"): self.cursor = self.characters.count
        case .control("u"): self.removeBefore(from: 0)
        case .control("w"): self.removeBefore(from: self.startOfWord)
        case .control("k"): self.characters.removeSubrange(self.cursor...)
        default: return false
        }
        return true
    }

    private mutating func insert(_ character: Character) {
        if self.cursor > 0 {
            // A combining mark joins the character before the cursor.
            let joined = String(self.characters[self.cursor - 1]) + String(character)
            if joined.count == 1, let whole = joined.first {
                if joined.unicodeScalars.count <= Self.longestCharacter { self.characters[self.cursor - 1] = whole }
                return
            }
        }
        guard self.characters.count < Self.longest else { return }
        self.characters.insert(character, at: self.cursor)
        self.cursor += 1
    }

    /// In Unicode scalars: emoji of families have up to ten.
    private static let longestCharacter = 16

    private mutating func removeBefore(from start: Int) {
        guard start >= 0, start < self.cursor else { return }
        self.characters.removeSubrange(start..<self.cursor)
        self.cursor = start
    }

    private var startOfWord: Int {
        var start = self.cursor
        while start > 0, self.characters[start - 1].isWhitespace { start -= 1 }
        while start > 0, !self.characters[start - 1].isWhitespace { start -= 1 }
        return start
    }
}

extension LineEditor {
    /// A row with the prompt and the typed text. If not everything fits, only the part of the text around the cursor is
    /// shown, and the prompt is shortened to leave at least half of the row.
    func row(prompt: String, width: Int, ellipsis: String) -> (line: ScreenLine, cursor: Int) {
        // One column is kept free for a cursor after the last character.
        let available = max(0, width - 1)
        let cells = DisplayText(self.characters).cells
        let typed = cells.reduce(0) { $0 + $1.width }
        let promptText = LineBuilder(prompt, .bold)
        let room = max(available - promptText.width, min(typed, available / 2))
        let shownPrompt = promptText.line(width: available - room, ellipsis: ellipsis)

        var start = 0
        var before = cells[..<self.cursor].reduce(0) { $0 + $1.width }
        while before > room, start < self.cursor {
            before -= cells[start].width
            start += 1
        }
        var row = LineBuilder()
        for span in shownPrompt.spans { row.append(span.text, span.style) }
        var used = 0
        for cell in cells[start...] {
            guard used + cell.width <= room else { break }
            used += cell.width
            row.append(cell, .plain)
        }
        return (row.line(width: width, ellipsis: ellipsis), shownPrompt.width + before)
    }
}
