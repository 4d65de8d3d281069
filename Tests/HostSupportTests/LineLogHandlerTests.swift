import InterceptModel
import Logging
import Testing

@testable import HostSupport

@Suite struct LineLogHandlerTests {
    private static let time = UTCTime(seconds: 1_795_383_603, milliseconds: 123)

    private func line(
        _ format: LineLogHandler.Format,
        _ message: String,
        _ metadata: Logger.Metadata = [:],
        level: Logger.Level = .info
    ) -> String {
        LineLogHandler(label: "sidecar", format: format, level: .trace)
            .line(level: level, message, metadata, at: Self.time)
    }

    @Test func `for a person`() {
        #expect(line(.text, "ready") == "2026-11-22T21:40:03.123Z info    sidecar: ready")
        #expect(
            line(
                .text,
                "dropped",
                ["reason": "mac1", "from": "[::1]:1", "note": "two words", "none": ""],
                level: .warning
            )
                == "2026-11-22T21:40:03.123Z warning sidecar: dropped from=[::1]:1 none=\"\" note=\"two words\" reason=mac1"
        )
        #expect(line(.text, "x", level: .critical).contains(" critical sidecar: x"))
    }

    @Test func `for a program`() {
        #expect(
            line(.json, "a \"b\" \\", ["from": "x", "level": "y"])
                == #"{"time":"2026-11-22T21:40:03.123Z","level":"info","program":"sidecar","#
                + #""message":"a \"b\" \\","from":"x","level_":"y"}"#
        )
    }

    @Test(arguments: [
        ("one\ntwo\tthree\r\n", "one two three  "), ("\u{1b}[31mred\u{9b}0m", "[31mred0m"),
        ("a\u{202e}b\u{200b}", "ab"),
        ("a\u{2028}b\u{85}c", "a b c"), ("nul\u{0}", "nul"), ("日本 🙂", "日本 🙂"),
    ])
    func `a message stays on its line`(message: String, shown: String) {
        #expect(line(.text, message).hasSuffix("sidecar: \(shown)"))
        let json = line(.json, message)
        #expect(json.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control })
        #expect(!json.unicodeScalars.contains("\u{202e}") && !json.unicodeScalars.contains("\u{2028}"))
    }

    @Test(arguments: [
        ("plain", "plain"), ("a=b", "a=b"), ("a b", "\"a b\""), ("", "\"\""), ("a\"b", "\"a\\\"b\""),
        ("x\" level=\"error", "\"x\\\" level=\\\"error\""), ("a\\b", "a\\b"), ("a \\", "\"a \\\\\""),
        ("a\nb", "\"a b\""),
        ("a\u{a0}b", "\"a\u{a0}b\""),
    ])
    func `no value can be taken for another`(value: String, shown: String) {
        #expect(line(.text, "m", ["k": "\(value)"]).hasSuffix("sidecar: m k=\(shown)"))
    }

    @Test func `metadata of the handler and of the record`() {
        var handler = LineLogHandler(label: "x", format: .text, level: .info)
        handler[metadataKey: "a"] = "1"
        handler[metadataKey: "b"] = "1"
        #expect(handler.line(level: .info, "m", ["b": "2"], at: Self.time).hasSuffix("x: m a=1 b=2"))
        #expect(handler[metadataKey: "a"] == "1")
    }
}
