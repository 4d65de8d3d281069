import InterceptModel
import Testing

@Suite struct PrintableTests {
    @Test(arguments: [
        ("", ""), ("ada@thinkpad", "ada@thinkpad"), ("Zoë 🙂 日本", "Zoë 🙂 日本"),
        ("a\u{1b}[31mb\u{7}", "a[31mb"), ("line\r\nline\ttab\u{0}\u{7f}\u{85}\u{9b}", "linelinetab"),
        ("\u{202e}evil\u{202c}\u{2066}x\u{2069}\u{200f}", "evilx"), ("a\u{2028}b\u{2029}c", "abc"),
        ("\u{feff}\u{200b}a\u{ad}", "a"), ("\u{e000}\u{10fffd}\u{378}a", "a"), ("e\u{301}", "e\u{301}"),
    ])
    func `what can't be seen is left out`(text: String, expected: String) {
        #expect(text.printable.unicodeScalars.elementsEqual(expected.unicodeScalars))
    }

    @Test func `256 bytes, and no part of a character`() {
        #expect(String(repeating: "a", count: 256).printable.utf8.count == 256)
        #expect(String(repeating: "a", count: 257).printable.utf8.count == 256)
        #expect(String(repeating: "日", count: 100).printable == String(repeating: "日", count: 85))
        #expect(("a" + String(repeating: "🙂", count: 64)).printable.utf8.count == 253)
        #expect(String(repeating: "e\u{301}", count: 100).printable == String(repeating: "e\u{301}", count: 85))
        // One character with all its marks is over it.
        #expect(("a" + String(repeating: "\u{301}", count: 1_000)).printable.isEmpty)
        #expect((String(repeating: "\u{7}", count: 70_000) + "end").printable == "end")
    }
}
