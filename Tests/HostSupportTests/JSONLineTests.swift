import HostSupport
import Testing

@Suite struct JSONLineTests {
    @Test func `a ready line`() {
        #expect(
            JSONLine.object([
                ("ready", .bool(true)), ("publicKey", .string("a+/=")), ("rttMs", .number(0.3)),
                ("listen", .object([("8080", .string("127.0.0.1:1"))])), ("none", .object([])), ("no", .bool(false)),
            ]) == #"{"ready":true,"publicKey":"a+/=","rttMs":0.3,"listen":{"8080":"127.0.0.1:1"},"none":{},"no":false}"#
        )
    }

    @Test(arguments: [
        ("\"\\/", #"\"\\/"#), ("\u{0}\u{1f}\u{7f}\n", #"\u0000\u001f\u007f\u000a"#), ("é日🙂", "é日🙂"),
        ("\u{2028}\u{202e}\u{feff}", #"\u2028\u202e\ufeff"#), ("\u{e0001}\u{10ffff}", #"\udb40\udc01\udbff\udfff"#),
    ])
    func `a string`(text: String, quoted: String) {
        #expect(JSONLine.object([(text, .string(text))]) == "{\"\(quoted)\":\"\(quoted)\"}")
    }

    @Test(arguments: [(1, "1.0"), (1e300, "1e+300"), (.nan, "null"), (.infinity, "null")] as [(Double, String)])
    func `a number`(value: Double, text: String) {
        #expect(JSONLine.object([("n", .number(value))]) == "{\"n\":\(text)}")
    }
}
