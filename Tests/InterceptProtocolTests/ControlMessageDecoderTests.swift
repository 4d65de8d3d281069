import InterceptProtocol
import NIOCore
import Testing

@Suite struct ControlMessageDecoderTests {
    @Test func `every split of two messages`() throws {
        let messages = [ControlMessageTests.fullStart, .stopped(total: 128, passed: 2)]
        var whole = ByteBuffer()
        for message in messages { message.encode(into: &whole) }
        for first in 0...whole.readableBytes {
            for second in [first, min(first + 1, whole.readableBytes), (first + whole.readableBytes) / 2] {
                var rest = whole
                var read: [ControlMessageDecoder.Next] = []
                var decoder = ControlMessageDecoder()
                for count in [first, second - first, whole.readableBytes - second] {
                    decoder.append(rest.readSlice(length: count) ?? ByteBuffer())
                    while case let next = try decoder.next(), next != .needsMore { read.append(next) }
                }
                #expect(read == messages.map { .message($0) })
            }
        }
    }

    @Test func `byte by byte`() throws {
        var decoder = ControlMessageDecoder()
        var read: [ControlMessageDecoder.Next] = []
        for message in ControlMessageTests.all {
            for byte in ByteBuffer.control(message).readableBytesView {
                decoder.append(ByteBuffer(integer: byte))
                if case let next = try decoder.next(), next != .needsMore { read.append(next) }
            }
        }
        #expect(read == ControlMessageTests.all.map { .message($0) })
    }

    @Test func `a message of 64 KiB, and one byte more`() throws {
        let empty = #"{"type":"stop","pad":""}"#
        let pad = String(repeating: "x", count: ControlMessage.maxByteCount - empty.utf8.count)
        #expect(try decode(#"{"type":"stop","pad":"\#(pad)"}"#) == .message(.stop))
        #expect(throws: ControlError.self) { try decode(#"{"type":"stop","pad":"\#(pad)x"}"#) }
    }

    /// It is known from the length: nothing is waited for.
    @Test(arguments: [65_537, 1 << 24, .max] as [UInt32]) func `a length over the limit`(length: UInt32) throws {
        var decoder = ControlMessageDecoder()
        decoder.append(.control(.stop))
        decoder.append(ByteBuffer(integer: length))
        #expect(try decoder.next() == .message(.stop))
        #expect(throws: ControlError.self) { try decoder.next() }
    }

    @Test func `an error is the end`() throws {
        var decoder = ControlMessageDecoder()
        decoder.append(.control("{}"))
        decoder.append(.control(.stop))
        #expect(throws: ControlError.self) { try decoder.next() }
        decoder.append(.control(.stop))
        #expect(throws: ControlError.self) { try decoder.next() }
    }

    @Test func `what is refused doesn't end it`() throws {
        var decoder = ControlMessageDecoder()
        decoder.append(.control(#"{"type":"start","generation":1,"ports":[{"service":0}]}"#))
        decoder.append(.control(.stop))
        guard case .refused = try decoder.next() else { throw CancellationError() }
        #expect(try decoder.next() == .message(.stop))
    }

    @Test func `not UTF-8, or not the UTF that was agreed`() throws {
        let json = #"{"type":"stop"}"#
        let littleEndian = json.utf8.flatMap { [$0, 0] as [UInt8] }
        let bigEndian: [UInt8] = [0xfe, 0xff] + json.utf8.flatMap { [0, $0] as [UInt8] }
        var attempts: [[UInt8]] = [littleEndian, bigEndian]
        for bad: [UInt8] in [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0xaf], [0xf5, 0x80, 0x80, 0x80]] {
            attempts.append(Array(#"{"type":"a"#.utf8) + bad + Array(#""}"#.utf8))
        }
        for bytes in attempts {
            var decoder = ControlMessageDecoder()
            decoder.append(ByteBuffer(integer: UInt32(bytes.count)))
            decoder.append(ByteBuffer(bytes: bytes))
            #expect(throws: ControlError.self) { try decoder.next() }
        }
    }

    @Test func `keys that come twice`() throws {
        guard case .message = try decode(#"{"type":"stop","type":"stop"}"#) else { throw CancellationError() }
        _ = try? decode(#"{"type":"stop","type":7}"#)
    }

    /// Each as large as a message may be. They cost little, whatever comes of them.
    @Test(.timeLimit(.minutes(1))) func `what is made to be costly`() {
        func times(_ text: String, _ count: Int) -> String { String(repeating: text, count: count) }
        let costly = [
            times("[", 60_000), times("{\"a\":", 13_000), times("[", 30_000) + times("]", 30_000),
            #"{"type":"stop","a":"# + times("[", 30_000) + times("]", 30_000) + "}",
            #"{"type":"stop","a":"# + times("{\"a\":", 10_000) + "1" + times("}", 10_000) + "}",
            #"{"type":"started","generation":"# + times("9", 60_000) + "}",
            #"{"type":"started","generation":0."# + times("0", 60_000) + "1}",
            #"{"type":"started","generation":1e"# + times("9", 60_000) + "}",
            #"{"type":"started","generation":1e1000000000}"#, #"{"type":"started","generation":1e-1000000000}"#,
            #"{"type":"stop""# + times(#","type":"stop""#, 4_000) + "}",
            #"{"type":"stop""# + (0..<5_000).map { #","k\#($0)":1"# }.joined() + "}",
            #"{"type":"start","generation":1,"ports":["# + times(#"{"service":1},"#, 4_000) + #"{"service":1}]}"#,
            #"{"type":"start","generation":1,"ports":["# + times("[],", 15_000) + "[]]}",
            #"{"type":""# + times("e\u{301}", 20_000) + #""}"#, #"{"type":""# + times("\\u200d", 10_000) + #""}"#,
            #"{"type":"a"# + times("\u{301}", 30_000) + #""}"#, times(" ", 65_000), times("\"", 65_000),
        ]
        for json in costly as [String] {
            #expect(json.utf8.count <= ControlMessage.maxByteCount)
            let took = ContinuousClock().measure { _ = try? decode(json) }
            #expect(took < .seconds(5), "\(json.prefix(40))")
        }
    }

    /// A piece may hold any number of messages: what it costs grows with its length, not with its square.
    @Test(.timeLimit(.minutes(1))) func `many messages in one piece`() throws {
        var piece = ByteBuffer()
        for _ in 0..<50_000 { piece.writeImmutableBuffer(.control(#"{"type":"stop"}"#)) }
        var decoder = ControlMessageDecoder()
        decoder.append(piece)
        var count = 0
        while try decoder.next() == .message(.stop) { count += 1 }
        #expect(count == 50_000)
    }

    @Test(arguments: 0..<200) func `random bytes`(seed: UInt64) {
        var random = Seeded(seed)
        var decoder = ControlMessageDecoder()
        for _ in 0..<20 {
            var bytes = ByteBuffer()
            if Bool.random(using: &random) { bytes.writeInteger(UInt32.random(in: 0...200, using: &random)) }
            for _ in 0..<Int.random(in: 0...200, using: &random) {
                bytes.writeInteger(UInt8.random(in: 0...255, using: &random))
            }
            decoder.append(bytes)
            while let next = try? decoder.next(), next != .needsMore {}
        }
    }

    /// Closer to home: real messages with a few bytes changed, cut or doubled. What is read can be written again.
    @Test(arguments: 0..<200) func `messages that something happened to`(seed: UInt64) throws {
        var random = Seeded(seed)
        let words = Array(#"{}[]:,"\ .-+eE019tfn"#.utf8) + [0, 0x7f, 0x80, 0xc0, 0xff]
        for message in ControlMessageTests.all {
            var json = Array(ByteBuffer.control(message).readableBytesView.dropFirst(4))
            for _ in 0..<Int.random(in: 1...4, using: &random) where !json.isEmpty {
                let place = Int.random(in: json.indices, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: json[place] = words.randomElement(using: &random) ?? 0
                case 1: json.insert(words.randomElement(using: &random) ?? 0, at: place)
                case 2: json.remove(at: place)
                default: json.insert(contentsOf: json[place...], at: place)
                }
            }
            var decoder = ControlMessageDecoder()
            decoder.append(ByteBuffer(integer: UInt32(json.count)))
            decoder.append(ByteBuffer(bytes: json))
            guard case .message(let read)? = try? decoder.next() else { continue }
            // Its name may have been that of a type that is known, but for what can't be shown.
            if case .unknown = read { continue }
            var again = ControlMessageDecoder()
            again.append(.control(read))
            #expect(try again.next() == .message(read))
        }
    }
}
