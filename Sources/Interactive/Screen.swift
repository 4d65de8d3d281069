/// How text looks. `ANSIRenderer` translates it for a terminal.
public enum Style: Hashable, Sendable, CaseIterable {
    case plain
    case dim
    case bold
    case accent
    case error
    /// Characters that match the search.
    case match
}

/// Text of one style. It contains nothing that could affect a terminal: only `ScreenLine` makes it, from `DisplayText`.
public struct Span: Equatable, Sendable {
    public let text: String
    public let style: Style
    /// In columns.
    public let width: Int
}

/// One row, never wider than its screen.
public struct ScreenLine: Equatable, Sendable {
    public private(set) var spans: [Span] = []
    public private(set) var width = 0

    fileprivate mutating func append(_ cell: DisplayText.Cell, _ style: Style) {
        guard !cell.text.isEmpty else { return }
        self.width += cell.width
        if let last = self.spans.last, last.style == style {
            self.spans[self.spans.count - 1] = Span(
                text: last.text + cell.text,
                style: style,
                width: last.width + cell.width
            )
        } else {
            self.spans.append(Span(text: cell.text, style: style, width: cell.width))
        }
    }

    public var plainText: String {
        var text = self.spans.reduce(into: "") { $0 += $1.text }
        while text.last == " " { text.removeLast() }
        return text
    }
}

/// A screen's content, independent of any terminal.
public struct Screen: Equatable, Sendable {
    public struct Position: Equatable, Sendable {
        public var row: Int
        public var column: Int
    }

    /// The terminal's width, in columns.
    public let width: Int
    public internal(set) var lines: [ScreenLine] = []
    /// The place where typing goes.
    public internal(set) var cursor: Position?

    init(width: Int) {
        self.width = width
    }

    /// The rows without styles and trailing blanks.
    public var plainText: String {
        self.lines.map(\.plainText).joined(separator: "\n")
    }
}

/// Collects a row's text, and cuts it at the row's end.
struct LineBuilder {
    private var cells: [(cell: DisplayText.Cell, style: Style)] = []
    private(set) var width = 0

    init() {}

    init(_ text: String, _ style: Style = .plain) {
        self.append(text, style)
    }

    mutating func append(_ text: String, _ style: Style = .plain) {
        for cell in DisplayText(text).cells { self.append(cell, style) }
    }

    mutating func append(_ cell: DisplayText.Cell, _ style: Style) {
        self.cells.append((cell, style))
        self.width += cell.width
    }

    /// A text that doesn't fit ends with an ellipsis.
    func line(width limit: Int, ellipsis: String) -> ScreenLine {
        var line = ScreenLine()
        guard limit > 0 else { return line }
        if self.width <= limit {
            for (cell, style) in self.cells { line.append(cell, style) }
            return line
        }
        let ending = DisplayText(ellipsis)
        for (cell, style) in self.cells {
            if line.width + cell.width + ending.width > limit {
                if line.width + ending.width <= limit {
                    for cell in ending.cells { line.append(cell, style) }
                }
                break
            }
            line.append(cell, style)
        }
        return line
    }

    /// A sentence wrapped at blanks to at most `rows` rows; the last one is cut if need be.
    static func wrapped(_ text: String, _ style: Style, width: Int, rows: Int, ellipsis: String) -> [ScreenLine] {
        guard width > 0, rows > 0 else { return [] }
        var lines: [ScreenLine] = []
        var current = LineBuilder()
        for (index, word) in text.split(separator: " ", omittingEmptySubsequences: true).enumerated() {
            let word = DisplayText(String(word))
            if index > 0 {
                // The last row takes all the remaining words.
                if current.width + 1 + word.width > width, lines.count < rows - 1 {
                    lines.append(current.line(width: width, ellipsis: ellipsis))
                    current = LineBuilder()
                } else {
                    current.append(" ", style)
                }
            }
            for cell in word.cells { current.append(cell, style) }
        }
        lines.append(current.line(width: width, ellipsis: ellipsis))
        return lines
    }
}
