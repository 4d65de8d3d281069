extension Picker {
    /// More rows would scroll away what the user was looking at.
    public static let mostRows = 15

    /// ```
    /// Service 'api-server' has 2 ports. …      the header, if there is room
    /// Select ports (TAB to toggle): 80          the prompt
    ///   1/2 · 1 selected                        how many of all rows match; why a key did nothing
    /// ▌ ● 8080                                  the list, scrolled so that it shows the current row
    /// ```
    public func screen(width: Int, height: Int) -> Screen {
        var screen = Screen(width: max(0, width))
        let rows = min(height, Self.mostRows)
        guard rows > 0, width > 0 else { return screen }

        // If there are few rows, the prompt comes first, then a row of the list, then the count, then the header.
        let headerRows = max(0, min(3, rows - 4))
        if let header, headerRows > 0 {
            screen.lines += LineBuilder.wrapped(
                header,
                .plain,
                width: width,
                rows: headerRows,
                ellipsis: self.symbols.ellipsis
            )
        }
        let (line, cursor) = self.query.row(prompt: self.prompt, width: width, ellipsis: self.symbols.ellipsis)
        screen.cursor = Screen.Position(row: screen.lines.count, column: cursor)
        screen.lines.append(line)
        if rows >= 3 { screen.lines.append(self.countRow(width: width)) }

        let room = rows - screen.lines.count
        let first = max(0, min(self.current - room / 2, self.matches.count - room))
        for index in first..<min(first + room, self.matches.count) {
            screen.lines.append(self.row(index, width: width))
        }
        return screen
    }

    private func countRow(width: Int) -> ScreenLine {
        var row = LineBuilder("  \(self.matches.count)/\(self.items.count)", .dim)
        if !self.toggled.isEmpty { row.append(" · \(self.toggled.count) selected", .accent) }
        if let refusal {
            row.append(" · ", .dim)
            row.append(refusal, .error)
        }
        return row.line(width: width, ellipsis: self.symbols.ellipsis)
    }

    private func row(_ index: Int, width: Int) -> ScreenLine {
        let match = self.matches[index]
        let item = self.items[match.item]
        let isCurrent = index == self.current
        var row = LineBuilder(isCurrent ? "\(self.symbols.current) " : "  ", .accent)
        if self.isMultiple {
            row.append(self.toggled.contains(match.item) ? "\(self.symbols.toggled) " : "  ", .accent)
        }

        let style: Style = item.disabledReason != nil ? .dim : isCurrent ? .bold : .plain
        var positions = match.positions[...]
        for (position, cell) in DisplayText(item.text).cells.enumerated() {
            let isMatch = positions.first == position
            if isMatch { positions.removeFirst() }
            row.append(cell, isMatch ? .match : style)
        }
        if let reason = item.disabledReason { row.append(" - \(reason)", .dim) }
        return row.line(width: width, ellipsis: self.symbols.ellipsis)
    }
}
