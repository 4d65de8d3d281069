/// Makes of each screen the bytes that change a terminal from the one before. The screen stands in the shell's own buffer,
/// below what was there, and nothing of it stays.
///
/// The terminal's cursor rests, unseen, at the start of the first row; the place where typing goes is drawn. Whatever a
/// terminal does with long rows when it is resized, it keeps the cursor at the character that it was on, so "from the
/// cursor to the end" is always exactly what was drawn.
public struct ANSIRenderer: Sendable {
    private let usesColors: Bool
    private var shown: Screen?

    /// - Parameter colors: Without them, styles differ by weight and underline only (no-color.org).
    public init(colors: Bool) {
        self.usesColors = colors
    }

    /// Before the first screen: the cursor hides, and what is pasted is marked as such.
    public static let beginning = "\u{1B}[?25l\u{1B}[?2004h"

    /// After the last one, also where drawing stopped anywhere: the screen vanishes, all is as before.
    public static let ending = "\(wraps)\u{1B}[0m\r\u{1B}[J\u{1B}[?2004l\u{1B}[?25h"

    private static let wraps = "\u{1B}[?7h"
    private static let wrapsNot = "\u{1B}[?7l"

    /// What was drawn isn't there any more, or isn't as it was; the next screen is drawn whole. After a resize, and after
    /// the process was stopped.
    public mutating func forget() {
        self.shown = nil
    }

    public mutating func draw(_ screen: Screen) -> [UInt8] {
        guard screen != self.shown else { return [] }
        // Terminals disagree on the width of some characters. A row that is too wide must not become two.
        var bytes = Self.wrapsNot
        let before = self.shown ?? Screen(width: screen.width)
        if self.shown == nil { bytes += "\r\u{1B}[J" }
        var row = 0
        for index in screen.lines.indices {
            let isNew = index >= before.lines.count
            guard isNew || Self.differ(before, screen, row: index) else { continue }
            // A line feed makes room where there is none below; on rows that are there it only goes down.
            if index > row { bytes += String(repeating: "\n", count: index - row) }
            row = index
            bytes += "\r"
            bytes += self.text(of: screen, row: index)
        }
        if before.lines.count > screen.lines.count {
            // What was below vanishes.
            bytes += String(repeating: "\n", count: screen.lines.count - row)
            row = screen.lines.count
            bytes += "\r\u{1B}[J"
        }
        if row > 0 { bytes += "\u{1B}[\(row)A" }
        bytes += "\r" + Self.wraps
        self.shown = screen
        return Array(bytes.utf8)
    }

    private static func differ(_ before: Screen, _ after: Screen, row: Int) -> Bool {
        let column = before.cursor.flatMap { $0.row == row ? $0.column : nil }
        let newColumn = after.cursor.flatMap { $0.row == row ? $0.column : nil }
        return before.lines[row] != after.lines[row] || column != newColumn || before.width != after.width
    }

    private func text(of screen: Screen, row: Int) -> String {
        let line = screen.lines[row]
        let cursor = screen.cursor.flatMap { $0.row == row ? $0.column : nil }
        var text = ""
        // Erasing at the end of a full row would take its last character (xterm, "pending wrap").
        let isFull = max(line.width, cursor.map { $0 + 1 } ?? 0) >= screen.width
        if isFull { text += "\u{1B}[2K" }
        var column = 0
        for span in line.spans {
            // All of it at once, but for the character at the cursor.
            var plain = ""
            for cell in DisplayText(span.text).cells {
                if let cursor, (column..<column + cell.width).contains(cursor) {
                    text += self.styled(plain, span.style) + self.styled(cell.text, span.style, isReversed: true)
                    plain = ""
                } else {
                    plain += cell.text
                }
                column += cell.width
            }
            text += self.styled(plain, span.style)
        }
        if let cursor, cursor >= column {
            text += String(repeating: " ", count: cursor - column) + self.styled(" ", .plain, isReversed: true)
        }
        if !isFull { text += "\u{1B}[K" }
        return text
    }

    private func styled(_ text: String, _ style: Style, isReversed: Bool = false) -> String {
        if text.isEmpty { return "" }
        let codes = (isReversed ? ["7"] : []) + (self.usesColors ? Self.colored(style) : Self.colorless(style))
        return codes.isEmpty ? text : "\u{1B}[\(codes.joined(separator: ";"))m\(text)\u{1B}[0m"
    }

    private static func colored(_ style: Style) -> [String] {
        switch style {
        case .plain: []
        case .dim: ["2"]
        case .bold: ["1"]
        case .accent: ["36"]
        case .error: ["31"]
        case .match: ["1", "32"]
        }
    }

    private static func colorless(_ style: Style) -> [String] {
        switch style {
        case .plain, .error: []
        case .dim: ["2"]
        case .bold, .accent: ["1"]
        case .match: ["1", "4"]
        }
    }
}
