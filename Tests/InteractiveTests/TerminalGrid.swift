@testable import Interactive

/// A terminal, as far as `ANSIRenderer` needs one; written from ECMA-48 and xterm's ctlseqs, and not from the renderer.
/// Whatever else it is sent is kept in `unknown`.
struct TerminalGrid {
    struct Cell: Equatable {
        /// Empty: the right half of a wide character.
        var text = " "
        var codes: Set<Int> = []
    }

    private(set) var columns: Int
    private(set) var rows: [[Cell]]
    /// What went out at the top.
    private(set) var history: [[Cell]] = []
    private(set) var row = 0
    private(set) var column = 0
    private(set) var wraps = true
    private(set) var hidesCursor = false
    private(set) var marksPastes = false
    private(set) var unknown: [String] = []
    private var codes: Set<Int> = []

    init(columns: Int, rows: Int) {
        self.columns = columns
        self.rows = Array(repeating: Self.blank(columns), count: rows)
    }

    private static func blank(_ columns: Int) -> [Cell] { Array(repeating: Cell(), count: columns) }

    var lines: [String] { self.rows.map(Self.text) }
    var historyLines: [String] { self.history.map(Self.text) }

    static func text(_ cells: [Cell]) -> String {
        var text = cells.reduce(into: "") { $0 += $1.text }
        while text.last == " " { text.removeLast() }
        return text
    }

    mutating func write(_ text: String) { self.apply(Array(text.utf8)) }

    mutating func apply(_ bytes: [UInt8]) {
        var rest = Array(String(decoding: bytes, as: UTF8.self).unicodeScalars)[...]
        while let scalar = rest.popFirst() {
            switch scalar {
            case "\r": self.column = 0
            case "\n": self.feedLine()
            case "\u{1B}":
                guard rest.popFirst() == "[" else {
                    self.unknown.append("an escape that is no CSI")
                    continue
                }
                let parameters = rest.prefix { $0.value >= 0x20 && $0.value <= 0x3F }
                rest = rest.dropFirst(parameters.count)
                self.control(String(String.UnicodeScalarView(parameters)), rest.popFirst() ?? "?")
            case _ where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value):
                self.unknown.append("U+\(String(scalar.value, radix: 16))")
            default: self.put(scalar)
            }
        }
    }

    private mutating func feedLine() {
        if self.row < self.rows.count - 1 {
            self.row += 1
        } else {
            self.history.append(self.rows.removeFirst())
            self.rows.append(Self.blank(self.columns))
        }
    }

    private mutating func control(_ parameters: String, _ last: Unicode.Scalar) {
        switch (parameters, last) {
        case ("?25", "h"), ("?25", "l"): self.hidesCursor = last == "l"
        case ("?7", "h"), ("?7", "l"): self.wraps = last == "h"
        case ("?2004", "h"), ("?2004", "l"): self.marksPastes = last == "h"
        case (_, "A"): self.row = max(0, self.row - max(1, Int(parameters) ?? 1))
        case ("", "J"):
            self.erase(from: self.column)
            for below in self.rows.indices.dropFirst(self.row + 1) { self.rows[below] = Self.blank(self.columns) }
        case ("", "K"): self.erase(from: min(self.column, self.columns - 1))
        case ("2", "K"): self.erase(from: 0)
        case (_, "m"):
            for code in parameters.split(separator: ";").map({ Int($0) ?? -1 }) {
                if code == 0 { self.codes = [] } else { self.codes.insert(code) }
            }
        default: self.unknown.append("CSI \(parameters)\(last)")
        }
    }

    private mutating func erase(from start: Int) {
        for column in start..<self.columns { self.rows[self.row][column] = Cell() }
    }

    private mutating func put(_ scalar: Unicode.Scalar) {
        let width = Self.width(scalar)
        guard width > 0 else {
            // On the character before, of which this may be the right half.
            var before = self.column - 1
            while before > 0, self.rows[self.row][before].text.isEmpty { before -= 1 }
            if before >= 0 { self.rows[self.row][before].text.unicodeScalars.append(scalar) }
            return
        }
        if self.column + width > self.columns {
            if self.wraps {
                self.column = 0
                self.feedLine()
            } else {
                self.column = max(0, self.columns - width)
            }
        }
        self.rows[self.row][self.column] = Cell(text: String(scalar), codes: self.codes)
        if width == 2, self.column + 1 < self.columns {
            self.rows[self.row][self.column + 1] = Cell(text: "", codes: self.codes)
        }
        self.column += width
    }

    /// What any terminal agrees on; coarse, and of its own.
    private static func width(_ scalar: Unicode.Scalar) -> Int {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark: return 0
        default: break
        }
        switch scalar.value {
        case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFF00...0xFF60, 0x1F300...0x1F64F,
            0x1F680...0x1F6FF, 0x1F900...0x1F9FF:
            return 2
        default: return 1
        }
    }

    enum Resizing: CaseIterable {
        /// xterm: rows are cut.
        case cutting
        /// Most others: what doesn't fit in a row goes on in the next.
        case reflowing
    }

    mutating func resize(columns: Int, rows count: Int, _ resizing: Resizing) {
        var rows: [[Cell]] = []
        var row = 0
        for (index, cells) in self.rows.enumerated() {
            if index == self.row { row = rows.count }
            var cells = cells
            while cells.last == Cell() { cells.removeLast() }
            if resizing == .reflowing {
                while cells.count > columns {
                    // A wide character isn't cut in two.
                    let length = cells[columns].text.isEmpty && columns > 1 ? columns - 1 : columns
                    rows.append(Array(cells.prefix(length)))
                    cells.removeFirst(length)
                }
            }
            rows.append(Array(cells.prefix(columns)))
        }
        // Blank rows below the cursor go first, then other ones below it, then what is at the top.
        while rows.count > count, rows.count > row + 1 { rows.removeLast() }
        while rows.count > count {
            self.history.append(rows.removeFirst())
            row -= 1
        }
        while rows.count < count { rows.append([]) }
        self.rows = rows.map { $0 + Array(repeating: Cell(), count: columns - $0.count) }
        self.row = row
        self.column = min(self.column, columns - 1)
        self.columns = columns
    }
}
