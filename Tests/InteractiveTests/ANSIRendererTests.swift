import Testing

@testable import Interactive
@testable import picker_trial

/// The bytes, applied to a terminal, give the screen: text, styles and the place where typing goes. What was above stays.
@Suite struct ANSIRendererTests {
    /// A terminal with a shell's last lines, and a dialogue below them.
    struct Stage<D: Dialogue> {
        var dialogue: D
        var grid: TerminalGrid
        var renderer: ANSIRenderer
        let colors: Bool
        /// Rows above the dialogue, oldest first.
        let above: [String]

        init(_ dialogue: D, columns: Int = 80, rows: Int = 24, above count: Int = 3, colors: Bool = true) {
            self.dialogue = dialogue
            self.grid = TerminalGrid(columns: columns, rows: rows)
            self.colors = colors
            self.above = (0..<count).map { "line \($0)" }
            for line in self.above { self.grid.write(line + "\r\n") }
            self.grid.write(ANSIRenderer.beginning)
            self.renderer = ANSIRenderer(colors: colors)
        }

        mutating func draw() {
            self.grid.apply(self.renderer.draw(self.screen))
        }

        var screen: Screen { self.dialogue.screen(width: self.grid.columns, height: self.grid.rows.count) }

        /// - Parameter marks: Codes of a style in a terminal with colours.
        func expectShown(_ place: SourceLocation = #_sourceLocation) {
            let screen = self.screen
            #expect(self.grid.unknown == [], sourceLocation: place)
            #expect(self.grid.column == 0 && self.grid.wraps && self.grid.hidesCursor, sourceLocation: place)
            let shown = Array(self.grid.rows[self.grid.row...])
            #expect(shown.count >= screen.lines.count, sourceLocation: place)
            for (index, cells) in shown.enumerated() {
                let line = index < screen.lines.count ? screen.lines[index] : nil
                #expect(TerminalGrid.text(cells) == line?.plainText ?? "", sourceLocation: place)
                let reversed = cells.indices.filter { cells[$0].codes.contains(7) && !cells[$0].text.isEmpty }
                let cursor = screen.cursor.flatMap { $0.row == index ? [$0.column] : nil } ?? []
                #expect(reversed == cursor, sourceLocation: place)
                self.expectStyles(of: line, cells, place)
            }
        }

        private func expectStyles(of line: ScreenLine?, _ cells: [TerminalGrid.Cell], _ place: SourceLocation) {
            var column = 0
            for span in line?.spans ?? [] {
                let expected: Set<Int>
                switch span.style {
                case .plain: expected = []
                case .dim: expected = [2]
                case .bold: expected = [1]
                case .accent: expected = self.colors ? [36] : [1]
                case .error: expected = self.colors ? [31] : []
                case .match: expected = self.colors ? [1, 32] : [1, 4]
                }
                for cell in cells[column..<min(cells.count, column + span.width)] where !cell.text.isEmpty {
                    #expect(cell.codes.subtracting([7]) == expected, sourceLocation: place)
                }
                column += span.width
            }
        }

        /// The dialogue is over: nothing of it is left.
        mutating func expectVanishes(_ place: SourceLocation = #_sourceLocation) {
            self.grid.write(ANSIRenderer.ending)
            #expect(!self.grid.hidesCursor && !self.grid.marksPastes && self.grid.wraps, sourceLocation: place)
            var lines = self.grid.historyLines + self.grid.lines
            while lines.last == "" { lines.removeLast() }
            #expect(lines == self.above, sourceLocation: place)
            #expect(self.grid.column == 0, sourceLocation: place)
        }
    }

    @Test(arguments: [true, false])
    func eachKeysChangeArrives(colors: Bool) {
        var stage = Stage(Questions.service(Names.services(200)), colors: colors)
        stage.draw()
        stage.expectShown()
        for key in Key.typed("api 80") + [.down, .down, .pageDown, .left, .left, .backspace, .control("u"), .end] {
            stage.dialogue.press(key)
            stage.draw()
            stage.expectShown()
        }
        stage.expectVanishes()
    }

    @Test func atTheBottomTheTerminalScrolls() {
        var stage = Stage(Questions.service(Names.services(200)), rows: 10, above: 9)
        stage.draw()
        stage.expectShown()
        #expect(stage.grid.row == 0)
        stage.dialogue.press(Key.typed("web-3"))
        stage.draw()
        stage.expectShown()
        stage.expectVanishes()
    }

    @Test func nothingIsSentForAScreenThatIsThere() {
        var renderer = ANSIRenderer(colors: true)
        let screen = Questions.service(Names.services(5)).screen(width: 80, height: 24)
        #expect(!renderer.draw(screen).isEmpty)
        #expect(renderer.draw(screen).isEmpty)
        renderer.forget()
        #expect(!renderer.draw(screen).isEmpty)
    }

    @Test func onlyRowsThatChangedAreSent() {
        var picker = Questions.service(Names.services(200))
        var renderer = ANSIRenderer(colors: true)
        let all = renderer.draw(picker.screen(width: 80, height: 24))
        picker.press(.down)
        let some = renderer.draw(picker.screen(width: 80, height: 24))
        #expect(some.count < all.count / 2)
    }

    @Test func withoutColorsNoColorIsSent() {
        var picker = Questions.service(Names.services(20))
        picker.press(Key.typed("bil"))
        picker.press(.enter)
        var stage = Stage(picker, colors: false)
        stage.draw()
        stage.expectShown()
        #expect(stage.grid.rows.joined().allSatisfy { $0.codes.allSatisfy { $0 < 30 } })
    }

    @Test(arguments: TerminalGrid.Resizing.allCases)
    func resizes(resizing: TerminalGrid.Resizing) {
        var stage = Stage(Questions.service(Names.services(200)), above: 2)
        stage.dialogue.press(Key.typed("a"))
        stage.draw()
        for (columns, rows) in [(40, 24), (10, 3), (80, 24), (250, 60), (3, 1), (80, 2), (80, 24)] {
            stage.grid.resize(columns: columns, rows: rows, resizing)
            stage.renderer.forget()
            stage.draw()
            stage.expectShown()
        }
        stage.expectVanishes()
    }

    @Test(arguments: 0..<200)
    func randomKeysAndSizes(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let offers = (0..<Int.random(in: 2...30, using: &random)).map {
            PortOffer(8_000 + UInt16($0), name: Names.stems[$0 % 12])
        }
        guard case .several(let picker) = Questions.ports(of: "支払い", offers) else { return }
        var stage = Stage(picker, columns: 60, rows: 20, above: 4)
        for _ in 0..<60 {
            if Int.random(in: 0..<12, using: &random) == 0 {
                stage.grid.resize(
                    columns: Int.random(in: 2...90, using: &random),
                    rows: Int.random(in: 1...30, using: &random),
                    .cutting
                )
                stage.renderer.forget()
            }
            stage.dialogue.press(.random(using: &random))
            stage.draw()
            stage.expectShown()
        }
    }
}
