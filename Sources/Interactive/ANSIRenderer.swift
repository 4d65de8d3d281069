/// Produces the bytes that change a terminal from one screen to the next. The screen is drawn in the terminal's normal
/// buffer, below the previous output, and is removed at the end.
///
/// The terminal's cursor stays hidden at the start of the first row; the place where typing goes is drawn. However a
/// terminal rewraps long rows when it is resized, it keeps the cursor at the same character, so "from the cursor to the
/// end" is always exactly what was drawn.
public struct ANSIRenderer: Sendable {
    private let usesColors: Bool
    private var shown: Screen?

    /// - Parameter colors: without them, styles differ by weight and underline only (no-color.org).
    public init(colors: Bool) {
        self.usesColors = colors
    }

    /// Written before the first screen: hides the cursor, and asks for bracketed paste.
    public static let beginning = "\u{1B}[?25l\u{1B}[?2004h"

    /// Written after the last screen, even if drawing stopped halfway: removes the screen and restores the terminal's
    /// modes.
    public static let ending = "\(wraps)\u{1B}[0m\r\u{1B}[J\u{1B}[?2004l\u{1B}[?25h"

    private static let wraps = "\u{1B}[?7h"
    private static let wrapsNot = "\u{1B}[?7l"

    /// What was drawn may be gone or changed, after a resize or after the process was stopped: the next screen is drawn
    /// completely.
    public mutating func forget() {
        self.shown = nil
    }

    public mutating func draw(_ screen: Screen) -> [UInt8] {
        guard screen != self.shown else { return [] }
        // Terminals disagree on the width of some characters. Without wrapping, a row that is too wide stays one row.
        var bytes = Self.wrapsNot
        let before = self.shown ?? Screen(width: screen.width)
        if self.shown == nil { bytes += "\r\u{1B}[J" }
        var row = 0
        for index in screen.lines.indices {
            let isNew = index >= before.lines.count
            guard isNew || Self.differ(before, screen, row: index) else { continue }
            // On the terminal's last row a line feed scrolls to make room; above it, it only moves down.
            if index > row { bytes += String(repeating: "\n", count: index - row) }
            row = index
            bytes += "\r"
            bytes += self.text(of: screen, row: index)
        }
        if before.lines.count > screen.lines.count {
            // Erase the rows that the new screen no longer has.
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
        // At the end of a full row, erasing would remove its last character (xterm, "pending wrap"); so erase the row
        // first.
        let isFull = max(line.width, cursor.map { $0 + 1 } ?? 0) >= screen.width
        if isFull { text += "\u{1B}[2K" }
        var column = 0
        for span in line.spans {
            // Collect the text of one style, except for the character at the cursor.
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
