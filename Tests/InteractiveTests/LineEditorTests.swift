import Testing

@testable import Interactive

@Suite struct LineEditorTests {
    static func edited(_ keys: [Key]) -> String {
        var editor = LineEditor()
        for key in keys {
            let isEdit = editor.handle(key)
            #expect(isEdit)
        }
        return String(editor.characters[..<editor.cursor]) + "|" + String(editor.characters[editor.cursor...])
    }

    @Test(
        arguments: [
            (Key.typed("abc"), "abc|"),
            (Key.typed("abc") + [.left, .character("x")], "abx|c"),
            (Key.typed("abc") + [.home, .right, .backspace], "|bc"),
            (Key.typed("abc") + [.control("a"), .delete], "|bc"),
            (Key.typed("abc") + [.control("a"), .end, .control("b"), .control("f")], "abc|"),
            (Key.typed("abc") + [.left, .control("u")], "|c"),
            (Key.typed("abc") + [.home, .right, .control("k")], "a|"),
            (Key.typed("one two  ") + [.control("w")], "one |"),
            (Key.typed("one two") + [.control("w"), .control("w"), .control("w")], "|"),
            ([.backspace, .delete, .left, .right, .control("w"), .control("u"), .control("k")], "|"),
            // A mark joins the character before it, and is taken away with it.
            ([.character("e"), .character("\u{301}")], "é|"),
            ([.character("e"), .character("\u{301}"), .backspace], "|"),
            ([.character("\u{301}")], "\u{301}|"),
            ([.character("🇩"), .character("🇪")], "🇩🇪|"),
        ] as [([Key], String)]
    )
    func keys(keys: [Key], expected: String) {
        #expect(Self.edited(keys) == expected)
    }

    @Test func otherKeysAreLeftToOthers() {
        var editor = LineEditor("abc")
        for key in [Key.enter, .tab, .escape, .up, .down, .pageUp, .control("c"), .control("n")] {
            let isEdit = editor.handle(key)
            #expect(!isEdit)
        }
        #expect(editor == LineEditor("abc"))
    }

    @Test func itsLengthIsBounded() {
        var editor = LineEditor()
        for _ in 0..<10_000 { _ = editor.handle(.character("a")) }
        #expect(editor.characters.count == LineEditor.longest)
        for _ in 0..<10_000 { _ = editor.handle(.character("\u{301}")) }
        #expect(editor.text.unicodeScalars.count < LineEditor.longest + 20)
    }

    @Test(arguments: 0..<100)
    func anyKeysAtAnyWidth(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var editor = LineEditor()
        for _ in 0..<300 {
            _ = editor.handle(.random(using: &random))
            let width = Int.random(in: 0...40, using: &random)
            let (line, cursor) = editor.row(prompt: "支払い Port: ", width: width, ellipsis: "…")
            #expect(line.width <= width)
            #expect((0..<max(1, width)).contains(cursor))
            #expect((0...editor.characters.count).contains(editor.cursor))
        }
    }
}
