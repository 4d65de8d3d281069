/// Columns as wide as their widest cell, with three blanks between them.
struct Table {
    private var rows: [[String]]

    init(_ header: [String]) { self.rows = [header] }

    mutating func add(_ row: [String]) { self.rows.append(row) }

    /// Lines that stand under a row, outside of the columns.
    private var notes: [Int: [String]] = [:]

    mutating func note(_ text: String) { self.notes[self.rows.count - 1, default: []].append(text) }

    var text: String {
        var widths: [Int] = []
        for row in self.rows {
            for (index, cell) in row.enumerated() {
                if index < widths.count {
                    widths[index] = max(widths[index], cell.count)
                } else {
                    widths.append(cell.count)
                }
            }
        }
        var result = ""
        for (number, row) in self.rows.enumerated() {
            var line = ""
            for (cell, width) in zip(row, widths) {
                line += cell + String(repeating: " ", count: width - cell.count + 3)
            }
            while line.last == " " { line.removeLast() }
            result += line + "\n"
            for note in self.notes[number] ?? [] { result += "  \(note)\n" }
        }
        return result
    }
}
