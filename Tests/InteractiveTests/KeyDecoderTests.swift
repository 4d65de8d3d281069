import Testing

@testable import Interactive

@Suite struct KeyDecoderTests {
    static let table: [(String, [Key])] = [
        ("a", [.character("a")]),
        ("\r", [.enter]),
        ("\n", [.control("j")]),
        ("\t", [.tab]),
        ("\u{7F}\u{8}", [.backspace, .backspace]),
        ("\u{3}\u{1A}\u{1}", [.control("c"), .control("z"), .control("a")]),
        ("\u{0}\u{1C}\u{1F}", []),
        ("\u{1B}[A\u{1B}[B\u{1B}[C\u{1B}[D", [.up, .down, .right, .left]),
        ("\u{1B}OA\u{1B}OB\u{1B}OC\u{1B}OD\u{1B}OH\u{1B}OF\u{1B}OM", [.up, .down, .right, .left, .home, .end, .enter]),
        ("\u{1B}[H\u{1B}[F\u{1B}[1~\u{1B}[4~\u{1B}[7~\u{1B}[8~", [.home, .end, .home, .end, .home, .end]),
        ("\u{1B}[3~\u{1B}[5~\u{1B}[6~\u{1B}[Z", [.delete, .pageUp, .pageDown, .backTab]),
        ("\u{1B}[1;5A\u{1B}[3;2~", [.up, .delete]),
        // Alt: with an arrow the arrow, with Backspace a word, with a letter nothing.
        ("\u{1B}\u{1B}[Ab", [.up, .character("b")]),
        ("\u{1B}\u{7F}", [.control("w")]),
        ("\u{1B}xy", [.character("y")]),
        ("\u{1B}\u{3}", [.control("c")]),
        ("\u{1B}ä", [.character("ä")]),
        // Unknown ones are swallowed whole.
        ("\u{1B}[200;1;2;3zx", [.character("x")]),
        ("\u{1B}[?1;2cx", [.character("x")]),
        ("\u{1B}[Ix\u{1B}[<0;1;2My", [.character("x"), .character("y")]),
        ("\u{1B}[15~\u{1B}[24~\u{1B}[[Ax\u{1B}OPy", [.character("x"), .character("y")]),
        ("\u{1B}]11;rgb:0/0/0\u{7}x\u{1B}P1$r0m\u{1B}\\y", [.character("x"), .character("y")]),
        // What can't belong to a sequence ends it.
        ("\u{1B}[12\u{3}", [.control("c")]),
        ("\u{1B}[1\u{1B}[A", [.up]),
        ("\u{1B}[12支", [.character("支")]),
        ("\u{1B}O\r", [.enter]),
        ("\u{1B}]title\u{3}x", [.control("c"), .character("x")]),
        // A paste answers nothing.
        ("\u{1B}[200~80\r\n80\t\u{1B}[A\u{1B}[201~\r", Key.typed("80  80 ") + [.enter]),
        ("\u{1B}[200~a\u{3}\r", [.character("a"), .control("c"), .enter]),
        ("支é🚀", [.character("支"), .character("é"), .character("🚀")]),
        ("e\u{301}", [.character("e"), .character("\u{301}")]),
        ("\u{85}\u{9B}A", [.character("A")]),
    ]

    @Test(arguments: table)
    func atOnceAndInPieces(text: String, keys: [Key]) {
        let bytes = Array(text.utf8)
        var whole = KeyDecoder()
        #expect(whole.decode(bytes) == keys)
        for cut in bytes.indices {
            var decoder = KeyDecoder()
            #expect(decoder.decode(bytes[..<cut]) + decoder.decode(bytes[cut...]) == keys, "cut at \(cut)")
        }
        var single = KeyDecoder()
        #expect(bytes.flatMap { single.decode([$0]) } == keys)
    }

    @Test(
        arguments: [
            [0x80], [0xFF, 0xFE], [0xC0, 0xAF], [0xC1, 0x81], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80],
            [0xF5, 0x80, 0x80, 0x80],
            [0xF4, 0x90, 0x80, 0x80], [0xF0, 0x80, 0x80, 0x80], [0xE6, 0x94], [0xC3],
        ] as [[UInt8]]
    )
    func whatIsNoUTF8IsSwallowed(bytes: [UInt8]) {
        var decoder = KeyDecoder()
        #expect(decoder.decode(bytes + [0x78]) == [.character("x")])
    }

    @Test func aLoneEscapeIsTheKeyAfterAWhile() {
        var decoder = KeyDecoder()
        #expect(decoder.decode([0x1B]) == [])
        #expect(decoder.isWaiting)
        #expect(decoder.expire() == [.escape])
        #expect(!decoder.isWaiting)
        #expect(decoder.expire() == [])
        #expect(decoder.decode(Array("[A".utf8)) == Key.typed("[A"))
    }

    @Test func aSlowLineSplitsSequencesAndCharacters() {
        var decoder = KeyDecoder()
        #expect(decoder.decode([0x1B, 0x5B]) == [])
        #expect(!decoder.isWaiting)
        #expect(decoder.expire() == [])
        #expect(decoder.decode([0x41]) == [.up])
        #expect(decoder.decode([0xE6]) == [])
        #expect(decoder.expire() == [])
        #expect(decoder.decode([0x94, 0xAF]) == [.character("支")])
    }

    @Test func anOpenStringEndsByTimeAndByLength() {
        var decoder = KeyDecoder()
        #expect(decoder.decode(Array("\u{1B}]never".utf8)) == [])
        #expect(decoder.expire() == [])
        #expect(decoder.decode([0x61]) == [.character("a")])

        #expect(decoder.decode([0x1B, 0x5D] + Array(repeating: 0x62, count: 5_000)).count < 1_000)
        #expect(decoder.decode([0x61]) == [.character("a")])
    }

    @Test func aPasteThatNeverEndsEnds() {
        var decoder = KeyDecoder()
        _ = decoder.decode(Array("\u{1B}[200~".utf8) + Array(repeating: 0x61, count: 70_000))
        #expect(decoder.decode([0x0D]) == [.enter])
    }

    @Test func longParametersAreSwallowed() {
        var decoder = KeyDecoder()
        #expect(
            decoder.decode([0x1B, 0x5B] + Array(repeating: 0x31, count: 100_000) + [0x41, 0x78]) == [.character("x")]
        )
    }

    @Test(arguments: 0..<100)
    func garbage(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var decoder = KeyDecoder()
        // Bytes that mean something, more often than chance has them.
        let likely: [UInt8] = [0x1B, 0x5B, 0x4F, 0x5D, 0x7E, 0x32, 0x30, 0x3B, 0xE6, 0x94, 0xF0, 0x9F, 0x07, 0x41]
        for _ in 0..<2_000 {
            let byte =
                Bool.random(using: &random)
                ? UInt8.random(in: 0...255, using: &random) : likely.randomElement(using: &random)
            _ = decoder.decode([byte ?? 0])
            if Int.random(in: 0..<20, using: &random) == 0 { _ = decoder.expire() }
        }
        // Whatever came before, Ctrl-C is heard.
        #expect(decoder.decode([0x03]).last == .control("c"))
    }
}
