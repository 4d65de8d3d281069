import NIOCore
import Testing

@testable import SidecarAgent

@Suite("the acknowledgement of the sidecar's own settings")
struct SettingsGreetingTests {
    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    private static let acknowledgement: [UInt8] = [0, 0, 0, 4, 1, 0, 0, 0, 0]
    /// SETTINGS with one setting, HEADERS whose payload looks like an acknowledgement, and a PING.
    private static let frames: [UInt8] =
        [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100] + [0, 0, 9, 1, 4, 0, 0, 0, 1] + acknowledgement
        + [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]

    private func passed(_ bytes: [UInt8], inPiecesOf size: Int) -> [UInt8] {
        var greeting = SettingsGreeting()
        var out: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: size) {
            let piece = bytes[start..<min(start + size, bytes.count)]
            out += greeting.take(ByteBuffer(bytes: piece)).readableBytesView
        }
        return out + greeting.takeRest().readableBytesView
    }

    @Test(
        "the first one is taken out, wherever it stands, and nothing else",
        arguments: [1, 2, 7, 8, 9, 10, 24, 33, 1_000]
    )
    func first(size: Int) {
        let (start, ack, rest) = (
            Self.preface + Self.frames, Self.acknowledgement, Self.frames + Array("anything".utf8)
        )
        #expect(self.passed(start + ack + rest, inPiecesOf: size) == start + rest)
        // The second is of the server's own settings.
        #expect(self.passed(start + ack + ack + rest, inPiecesOf: size) == start + ack + rest)
        #expect(self.passed(Self.preface + ack, inPiecesOf: size) == Self.preface)
    }

    @Test("all that comes before it is passed on as it is", arguments: [1, 5, 9, 1_000])
    func none(size: Int) {
        for count in 0...(Self.preface + Self.frames).count {
            let bytes = Array((Self.preface + Self.frames).prefix(count))
            #expect(self.passed(bytes, inPiecesOf: size) == bytes)
        }
        let huge: [UInt8] = Self.preface + [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1] + Self.acknowledgement
        #expect(self.passed(huge, inPiecesOf: size) == huge)
    }
}
