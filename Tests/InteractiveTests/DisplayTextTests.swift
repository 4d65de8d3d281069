import Testing

@testable import Interactive

@Suite struct DisplayTextTests {
    static let table: [(String, String, Int)] = [
        ("", "", 0),
        ("api-server", "api-server", 10),
        ("支払い", "支払い", 6),
        ("배송", "배송", 4),
        // Hangul in its single letters stands in as many columns.
        ("\u{1107}\u{1162}", "\u{1107}\u{1162}", 2),
        ("ｆ", "ｆ", 2),
        ("e\u{301}", "e\u{301}", 1),
        ("🚀", "🚀", 2),
        ("\u{1B}[31m", "?[31m", 5),
        ("\u{9B}", "?", 1),
        ("\u{7F}\u{0}", "??", 2),
        ("\r\n", "??", 2),
        ("\u{2028}\u{2029}", "??", 2),
        ("\u{202E}\u{2066}\u{200F}", "???", 3),
        ("a\u{200B}b\u{FEFF}\u{AD}", "ab", 2),
        ("❤\u{FE0F}", "❤", 1),
        ("👩\u{200D}🚀", "👩🚀", 4),
        ("👍🏽", "👍", 2),
        ("🏽", "🏽", 2),
        ("🇩🇪", "DE", 2),
        ("\u{301}", "?", 1),
        ("\u{0600}", "?", 1),
        ("\u{FFFF}", "?", 1),
        ("\u{E000}", "\u{E000}", 1),
        ("\u{115F}", "", 0),
        ("\u{E0001}\u{E0061}", "", 0),
    ]

    @Test(arguments: table)
    func shown(text: String, shown: String, width: Int) {
        let display = DisplayText(text)
        #expect(Array(display.text.unicodeScalars) == Array(shown.unicodeScalars))
        #expect(display.width == width)
        // What is shown once is shown again as it is.
        #expect(DisplayText(display.text).text == display.text)
        #expect(display.cells.count == text.count)
    }

    @Test func noScalarActsOnATerminal() {
        for value in UInt32(0)...0x10FFFF {
            guard let scalar = Unicode.Scalar(value) else { continue }
            let display = DisplayText("a" + String(Character(scalar)))
            let acts = display.text.unicodeScalars.contains {
                [.control, .format].contains($0.properties.generalCategory) || $0.properties.isBidiControl
            }
            if acts || !(1...3).contains(display.width) {
                Issue.record("\(display.width) columns for U+\(String(value, radix: 16))")
            }
        }
    }

    @Test func aCharacterOfAnyLengthIsBounded() {
        let marks = DisplayText("z" + String(repeating: "\u{301}", count: 1_000))
        #expect(marks.text.unicodeScalars.count == 4)
        let family = DisplayText(Array(repeating: "👩", count: 500).joined(separator: "\u{200D}"))
        #expect(family.cells.count == 1)
        #expect(family.width == 8)
    }

    @Test func rangesAscend() {
        for (one, next) in zip(WideRanges.ranges, WideRanges.ranges.dropFirst()) {
            #expect(one.upperBound < next.lowerBound)
        }
    }

    @Test(arguments: 0...12)
    func rowsAreCutAtTheirWidth(width: Int) {
        let line = LineBuilder("支払い-サービス").line(width: width, ellipsis: "…")
        let expected = [
            "", "…", "…", "支…", "支…", "支払…", "支払…", "支払い…", "支払い-…", "支払い-…", "支払い-サ…", "支払い-サ…", "支払い-サー…",
        ]
        #expect(line.plainText == expected[width])
        #expect(line.width <= width)
    }

    @Test func sentencesAreWrappedAtBlanks() {
        let lines = LineBuilder.wrapped("one two three four five", .plain, width: 9, rows: 3, ellipsis: "…")
        #expect(lines.map(\.plainText) == ["one two", "three", "four five"])
        let cut = LineBuilder.wrapped("one two three four five", .plain, width: 9, rows: 2, ellipsis: "…")
        #expect(cut.map(\.plainText) == ["one two", "three fo…"])
        #expect(LineBuilder.wrapped("one", .plain, width: 9, rows: 0, ellipsis: "…") == [])
        #expect(LineBuilder.wrapped("", .plain, width: 9, rows: 2, ellipsis: "…").map(\.plainText) == [""])
    }
}
