import NIOCore
import Testing

@testable import Tunnel

/// TCP's urgent bytes: which of a stream's bytes are told to be urgent, and which are given out as such.
@Suite struct UrgentTests {
    private static let now = Instant(nanoseconds: 0)
    private static let carrier = CarrierID(1)
    private static let stream = StreamID(index: 0, openedBy: .responder)

    private static func connection(
        _ role: Role = .responder,
        peerTakes: Bool = true,
        takes: Bool = true
    ) -> Connection {
        var peer = TransportParameters(connectionID: ConnectionID(rawValue: 7))
        peer.initialMaxData = 1 << 20
        peer.initialMaxStreamData = 1 << 16
        peer.initialMaxStreams = 100
        peer.takesUrgent = peerTakes
        var configuration = TunnelConfiguration()
        configuration.takesUrgent = takes
        return Connection(
            role: role,
            id: ConnectionID(rawValue: 7),
            configuration: configuration,
            peerParameters: peer,
            random: .system,
            at: Self.now
        )
    }

    /// A STREAM frame, as it is expected.
    struct Piece: Equatable, CustomStringConvertible {
        var offset: UInt64
        var text: String
        var isUrgent = false
        var fin = false
        var description: String { "\(self.offset) \(self.text)\(self.isUrgent ? "!" : "")\(self.fin ? "." : "")" }
    }

    /// One message's frames of streams, and the message.
    private static func message(_ connection: inout Connection, room: Int = 1_000) -> (pieces: [Piece], SentMessage) {
        var body = ByteBuffer()
        var message = SentMessage(number: connection.takeNumber(), time: Self.now, carrier: Self.carrier)
        _ = connection.writeFrames(into: &body, room: room, message: &message, at: Self.now)
        connection.sent.append(message)
        var pieces: [Piece] = []
        while body.readableBytes > 0, let frame = try? Frame(reading: &body) {
            switch frame {
            case .stream(_, let offset, let data, let fin):
                pieces.append(Piece(offset: offset, text: String(buffer: data), fin: fin))
            case .urgentStream(_, let offset, let data, let fin):
                pieces.append(Piece(offset: offset, text: String(buffer: data), isUrgent: true, fin: fin))
            default: Issue.record("another frame")
            }
        }
        return (pieces, message)
    }

    private static func all(_ connection: inout Connection) -> [Piece] {
        var all: [Piece] = []
        while case let pieces = Self.message(&connection).pieces, !pieces.isEmpty { all += pieces }
        return all
    }

    // MARK: Sending

    @Test func aFrameEndsWithTheUrgentByte() {
        var connection = Self.connection()
        let id = connection.openStream() ?? .control
        connection.write(ByteBuffer(string: "ab"), to: id)
        connection.writeUrgent(UInt8(ascii: "!"), to: id)
        connection.write(ByteBuffer(string: "cd"), to: id)
        connection.writeUrgent(UInt8(ascii: "?"), to: id)
        connection.finish(id)
        expect(
            Self.all(&connection),
            is: [
                Piece(offset: 0, text: "ab!", isUrgent: true),
                Piece(offset: 3, text: "cd?", isUrgent: true, fin: true),
            ]
        )
    }

    @Test func whatIsLostIsUrgentAgainUntilItIsAcknowledged() {
        var connection = Self.connection()
        let id = connection.openStream() ?? .control
        connection.write(ByteBuffer(string: "ab"), to: id)
        connection.writeUrgent(UInt8(ascii: "!"), to: id)
        connection.write(ByteBuffer(string: "cd"), to: id)
        let first = Self.message(&connection)
        let second = Self.message(&connection)
        expect(first.pieces, is: [Piece(offset: 0, text: "ab!", isUrgent: true)])
        expect(second.pieces, is: [Piece(offset: 3, text: "cd")])
        // Both are lost, and their pieces are one: it is cut again.
        connection.lose(second.1)
        connection.lose(first.1)
        let again = [Self.message(&connection), Self.message(&connection)]
        let expected = [Piece(offset: 0, text: "ab!", isUrgent: true), Piece(offset: 3, text: "cd")]
        expect(again.flatMap(\.pieces), is: expected)
        // Each is named alone: a number between two messages may have been skipped, and must not be acknowledged.
        for (number, message) in again.map(\.1.number).enumerated() {
            var acknowledgement = ByteBuffer()
            for value in [0x02, message, 0, 0, 0] { acknowledgement.writeVarInt(value) }
            connection.receive(frames: acknowledgement, number: UInt64(number), bytes: 5, at: Self.now)
        }
        let left = connection.streams[id]?.urgentToSend.count
        #expect(left == 0)
    }

    /// With little room the byte is in a later frame.
    @Test(arguments: 66...90)
    func whereTheMessageIsFull(_ room: Int) {
        var connection = Self.connection()
        let id = connection.openStream() ?? .control
        let text = String(repeating: "x", count: 70)
        connection.write(ByteBuffer(string: text), to: id)
        connection.writeUrgent(UInt8(ascii: "!"), to: id)
        connection.write(ByteBuffer(string: "y"), to: id)
        var all: [Piece] = []
        while case let pieces = Self.message(&connection, room: room).pieces, !pieces.isEmpty { all += pieces }
        #expect(all.map(\.text).joined() == text + "!y")
        #expect(all.filter(\.isUrgent).map { $0.text.last } == ["!"])
    }

    @Test func onlyTheNewestKeepTheirMark() {
        var connection = Self.connection()
        let id = connection.openStream() ?? .control
        for _ in 0..<(UrgentMarks.kept + 3) { connection.writeUrgent(UInt8(ascii: "u"), to: id) }
        let pieces = Self.all(&connection)
        #expect(pieces.first == Piece(offset: 0, text: "uuuu", isUrgent: true))
        #expect(pieces.filter(\.isUrgent).count == UrgentMarks.kept)
    }

    @Test func aPeerThatTakesNoneGetsTheBytesAround() {
        var connection = Self.connection(peerTakes: false)
        let id = connection.openStream() ?? .control
        for _ in 0..<2 {
            connection.write(ByteBuffer(string: "ab"), to: id)
            connection.writeUrgent(UInt8(ascii: "!"), to: id)
        }
        connection.finish(id)
        expect(Self.all(&connection), is: [Piece(offset: 0, text: "abab", fin: true)])
        expect(connection.nextEvent(), is: .urgentLeftOut)
        expect(connection.nextEvent(), is: nil)
    }

    // MARK: Receiving

    private static func frame(_ offset: UInt64, _ text: String, type: UInt64 = 0x6b0e, fin: Bool = false) -> ByteBuffer
    {
        var bytes = ByteBuffer()
        bytes.writeVarInt(type | (fin ? 1 : 0))
        bytes.writeVarInt(Self.stream.rawValue)
        if type & 0x04 != 0 { bytes.writeVarInt(offset) }
        if type & 0x02 != 0 { bytes.writeVarInt(UInt64(text.utf8.count)) }
        bytes.writeString(text)
        return bytes
    }

    private static func receive(_ connection: inout Connection, _ frames: [ByteBuffer]) {
        var message = ByteBuffer()
        for frame in frames { message.writeImmutableBuffer(frame) }
        let number = connection.numbers.highestReceived.map { $0 + 1 } ?? 0
        _ = connection.numbers.isNewest(number)
        connection.receive(frames: message, number: number, bytes: message.readableBytes, at: Self.now)
    }

    /// All that can be read, with a "!" behind each urgent byte, and a bar between reads.
    private static func read(_ connection: inout Connection, atMost count: Int = .max) -> String {
        var text: [String] = []
        while true {
            let isUrgent = connection.urgentIsNext(Self.stream)
            switch connection.read(Self.stream, atMost: count) {
            case .bytes(let bytes): text.append(String(buffer: bytes) + (isUrgent ? "!" : ""))
            case .end: return text.joined(separator: "|") + "."
            case .nothing: return text.joined(separator: "|")
            }
        }
    }

    @Test func theByteIsGivenAlone() {
        var connection = Self.connection(.initiator)
        Self.receive(
            &connection,
            [Self.frame(0, "abc"), Self.frame(3, "d", type: 0x0e), Self.frame(4, "e", fin: true)]
        )
        expect(Self.read(&connection), is: "ab|c!|d|e!.")
    }

    @Test func inPiecesOfOne() {
        var connection = Self.connection(.initiator)
        Self.receive(&connection, [Self.frame(0, "abc"), Self.frame(3, "de", type: 0x0e)])
        expect(Self.read(&connection, atMost: 1), is: "a|b|c!|d|e")
    }

    /// Each form of the frame: without an offset, without a length.
    @Test(arguments: [0x6b08, 0x6b0a, 0x6b0c, 0x6b0e] as [UInt64])
    func forms(_ type: UInt64) {
        var connection = Self.connection(.initiator)
        Self.receive(&connection, [Self.frame(0, "ab", type: type)])
        expect(Self.read(&connection), is: "a|b!")
    }

    @Test func behindAGapAndTwice() {
        var connection = Self.connection(.initiator)
        Self.receive(&connection, [Self.frame(3, "d"), Self.frame(3, "d")])
        expect(Self.read(&connection), is: "")
        let isNext = connection.urgentIsNext(Self.stream)
        #expect(!isNext)
        Self.receive(&connection, [Self.frame(0, "abc", type: 0x0e)])
        expect(Self.read(&connection), is: "abc|d!")
        // What was taken has no mark any more.
        Self.receive(&connection, [Self.frame(3, "d"), Self.frame(4, "e", type: 0x0e)])
        expect(Self.read(&connection), is: "e")
        let kept = connection.streams[Self.stream]?.urgentToRead.count
        #expect(kept == 0)
    }

    /// A peer that calls every byte urgent fills no memory; the newest are.
    @Test func theirNumberIsBounded() {
        var connection = Self.connection(.initiator)
        for offset in 0..<100 as Range<UInt64> { Self.receive(&connection, [Self.frame(offset, "u")]) }
        let kept = connection.streams[Self.stream]?.urgentToRead.count
        #expect(kept == UrgentMarks.kept)
        let ordinary = String(repeating: "u", count: 100 - UrgentMarks.kept)
        expect(Self.read(&connection), is: ordinary + String(repeating: "|u!", count: UrgentMarks.kept))
    }

    @Test func afterTheStreamWasStoppedNoneIsKept() {
        var connection = Self.connection(.initiator)
        Self.receive(&connection, [Self.frame(0, "a", type: 0x0e)])
        connection.stopSending(Self.stream, .tcpReset)
        Self.receive(&connection, [Self.frame(1, "bc")])
        expect(Self.read(&connection), is: "")
        let isActive = connection.isActive
        #expect(isActive)
    }

    struct Misdeed: CustomTestStringConvertible, Sendable {
        var name: String
        var role = Role.initiator
        var takes = true
        var code: ErrorCode
        var frame: [UInt64]
        var testDescription: String { self.name }
    }

    static let misdeeds: [Misdeed] = [
        Misdeed(name: "no byte", code: .frameEncodingError, frame: [0x6b0a, 1, 0]),
        Misdeed(name: "no byte, to the message's end", code: .frameEncodingError, frame: [0x6b08, 1]),
        Misdeed(name: "no byte but an end", code: .frameEncodingError, frame: [0x6b0b, 1, 0]),
        Misdeed(name: "ends too soon", code: .frameEncodingError, frame: [0x6b0e, 1]),
        Misdeed(name: "longer than its message", code: .frameEncodingError, frame: [0x6b0a, 1, 2, 0]),
        Misdeed(
            name: "a stream longer than 2^62 - 1",
            code: .frameEncodingError,
            frame: [0x6b0e, 1, VarInt.max, 1, 0]
        ),
        Misdeed(name: "the type before", code: .frameEncodingError, frame: [0x6b07, 1, 0]),
        Misdeed(name: "the type behind", code: .frameEncodingError, frame: [0x6b10, 1, 0]),
        Misdeed(name: "none was asked for", takes: false, code: .frameEncodingError, frame: [0x6b0a, 1, 1, 0]),
        Misdeed(name: "on the control stream", role: .responder, code: .controlError, frame: [0x6b0a, 0, 1, 0]),
        Misdeed(name: "a stream of ours", code: .streamStateError, frame: [0x6b0a, 4, 1, 0]),
        Misdeed(
            name: "past the stream's credit",
            code: .flowControlError,
            frame: [0x6b0e, 1, Constants.initialStreamWindow, 1, 0]
        ),
    ]

    @Test("closes with its code", arguments: misdeeds)
    func closes(_ misdeed: Misdeed) {
        var connection = Self.connection(misdeed.role, takes: misdeed.takes)
        var frames = ByteBuffer()
        for value in misdeed.frame { frames.writeVarInt(value) }
        Self.receive(&connection, [frames])
        var code: ErrorCode?
        while let event = connection.nextEvent() { if case .ended(let end) = event { code = end.code } }
        #expect(code == misdeed.code)
    }

    // MARK: Marks

    @Test func marksAreInOrderAndOnce() {
        var marks = UrgentMarks()
        for offset in [5, 3, 9, 3, 5] as [UInt64] { marks.insert(offset) }
        #expect(marks.count == 3)
        #expect(marks.first(from: 0) == 3)
        #expect(marks.first(from: 4) == 5)
        #expect(marks.first(from: 10) == nil)
        marks.remove(below: 5)
        #expect(marks.first(from: 0) == 5)
        for offset in 100..<200 as Range<UInt64> { marks.insert(offset) }
        #expect(marks.count == UrgentMarks.kept)
        #expect(marks.first(from: 0) == 200 - UInt64(UrgentMarks.kept))
    }
}
