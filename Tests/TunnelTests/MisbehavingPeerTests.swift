import NIOCore
import Noise
import Testing

@testable import Tunnel

/// Each way to break the protocol: the exact code, and never a trap.
@Suite struct MisbehavingPeerTests {
    struct Misdeed: CustomTestStringConvertible, Sendable {
        var name: String
        var role: Role = .initiator
        var code: ErrorCode
        var frames: @Sendable (inout ByteBuffer) -> Void
        var testDescription: String { self.name }
    }

    static func connection(_ role: Role) -> Connection {
        var peer = TransportParameters(connectionID: ConnectionID(rawValue: 7))
        peer.initialMaxData = 1 << 20
        peer.initialMaxStreamData = 1 << 16
        peer.initialMaxStreams = 100
        var configuration = TunnelConfiguration()
        if role == .responder { configuration.maxStreamsFromPeer = 1 }
        return Connection(
            role: role,
            id: ConnectionID(rawValue: 7),
            configuration: configuration,
            peerParameters: peer,
            random: .system,
            at: Instant(nanoseconds: 0)
        )
    }

    static let beyond = StreamID(index: Constants.peerStreams, openedBy: .responder).rawValue
    static let stream: UInt64 = 1

    static let misdeeds: [Misdeed] = [
        Misdeed(name: "a stream beyond the limit", code: .streamLimitError) { $0.stream(beyond, 0, "x") },
        Misdeed(name: "MAX_STREAM_DATA beyond the limit", code: .streamLimitError) { $0.integers(0x11, beyond, 9) },
        Misdeed(name: "RESET_STREAM beyond the limit", code: .streamLimitError) { $0.integers(0x04, beyond, 0, 0) },
        Misdeed(name: "STOP_SENDING beyond the limit", code: .streamLimitError) { $0.integers(0x05, beyond, 0) },
        Misdeed(name: "a second stream of the initiator's", role: .responder, code: .streamLimitError) {
            $0.stream(4, 0, "x")
        },
        Misdeed(name: "the greatest stream id", code: .streamStateError) { $0.stream(VarInt.max, 0, "x") },
        Misdeed(name: "a unidirectional stream", code: .streamStateError) { $0.stream(3, 0, "x") },
        Misdeed(name: "a stream of ours that we did not open", code: .streamStateError) { $0.stream(4, 0, "x") },
        Misdeed(name: "past the stream's credit", code: .flowControlError) {
            $0.stream(stream, Constants.initialStreamWindow, "x")
        },
        Misdeed(name: "a reset past the stream's credit", code: .flowControlError) {
            $0.integers(0x04, stream, 0, Constants.initialStreamWindow + 1)
        },
        Misdeed(name: "past the connection's credit", code: .flowControlError) { bytes in
            let streams = Constants.maxConnectionWindow / Constants.initialStreamWindow + 1
            for index in 0..<streams { bytes.stream(index << 2 | 1, Constants.initialStreamWindow - 1, "x") }
        },
        Misdeed(name: "a stream's end that moves", code: .finalSizeError) {
            $0.stream(stream, 0, "xx", fin: true)
            $0.stream(stream, 0, "x", fin: true)
        },
        Misdeed(name: "bytes past a stream's end", code: .finalSizeError) {
            $0.stream(stream, 0, "x", fin: true)
            $0.stream(stream, 1, "y")
        },
        Misdeed(name: "a reset that takes back what has come", code: .finalSizeError) {
            $0.stream(stream, 9, "x")
            $0.integers(0x04, stream, 0, 5)
        },
        Misdeed(name: "more gaps than a stream keeps", code: .internalError) { bytes in
            for gap in 0...UInt64(Constants.gapsPerStream) { bytes.stream(stream, 2 * gap + 1, "x") }
        },
        Misdeed(name: "more gaps than the connection keeps", code: .internalError) { bytes in
            for index in 0..<5 as Range<UInt64> {
                for gap in 0..<4_000 as Range<UInt64> { bytes.stream(index << 2 | 1, 2 * gap + 1, "x") }
            }
        },
        Misdeed(name: "an ACK of what was not sent", code: .protocolViolation) { $0.integers(0x02, 0, 0, 0, 0) },
        Misdeed(name: "an ACK of the greatest number", code: .protocolViolation) {
            $0.integers(0x02, VarInt.max, VarInt.max, 0, VarInt.max)
        },
        Misdeed(name: "an ACK that goes below zero", code: .frameEncodingError) { $0.integers(0x02, 3, 0, 0, 4) },
        Misdeed(name: "an ACK whose gap goes below zero", code: .frameEncodingError) {
            $0.integers(0x02, 3, 0, 1, 0, 5, 0)
        },
        Misdeed(name: "an ACK that promises more ranges than there are", code: .frameEncodingError) {
            $0.integers(0x02, 3, 0, VarInt.max, 0)
        },
        Misdeed(name: "the control stream's end", role: .responder, code: .controlError) {
            $0.stream(0, 0, "x", fin: true)
        },
        Misdeed(name: "the control stream's reset", role: .responder, code: .controlError) {
            $0.integers(0x04, 0, 0, 0)
        },
        Misdeed(name: "a stop of the control stream", role: .responder, code: .controlError) {
            $0.integers(0x05, 0, 0)
        },
        Misdeed(name: "NEW_CONNECTION_ID", code: .frameEncodingError) { $0.integers(0x18) },
        Misdeed(name: "MAX_STREAMS for unidirectional streams", code: .frameEncodingError) { $0.integers(0x13, 1) },
        Misdeed(name: "STREAMS_BLOCKED for unidirectional streams", code: .frameEncodingError) { $0.integers(0x17, 1) },
        Misdeed(name: "a transport close", code: .frameEncodingError) { $0.integers(0x1c, 0, 0, 0) },
        Misdeed(name: "a type nobody knows", code: .frameEncodingError) { $0.integers(VarInt.max) },
        Misdeed(name: "more streams than 2^60", code: .frameEncodingError) { $0.integers(0x12, (1 << 60) + 1) },
        Misdeed(name: "a frame that ends too soon", code: .frameEncodingError) { $0.integers(0x11, 1) },
        Misdeed(name: "a length past the message", code: .frameEncodingError) { $0.integers(0x0a, 1, VarInt.max) },
        Misdeed(name: "a stream longer than 2^62 - 1", code: .frameEncodingError) { bytes in
            bytes.integers(0x0e, 1, VarInt.max, 1)
            bytes.writeInteger(UInt8(0))
        },
    ]

    @Test("closes with its code", arguments: misdeeds)
    func closes(_ misdeed: Misdeed) {
        var connection = Self.connection(misdeed.role)
        var frames = ByteBuffer()
        misdeed.frames(&frames)
        connection.receive(frames: frames, number: 0, bytes: frames.readableBytes, at: Instant(nanoseconds: 0))
        let (code, isActive) = (connection.end?.code, connection.isActive)
        #expect(code == misdeed.code)
        #expect(!isActive)
    }

    @Test func acknowledgingALeftOutNumberCloses() {
        var connection = Self.connection(.initiator)
        connection.numbers = MessageNumbers(from: 10, random: .system)
        connection.sent.noteSkipped(3)
        var frames = ByteBuffer()
        frames.integers(0x02, 9, 0, 0, 9)
        connection.receive(frames: frames, number: 0, bytes: 5, at: Instant(nanoseconds: 0))
        let code = connection.end?.code
        #expect(code == .protocolViolation)
    }

    @Test func aSecondAckInAMessageCloses() {
        var connection = Self.connection(.initiator)
        connection.numbers = MessageNumbers(from: 10, random: .system)
        var frames = ByteBuffer()
        frames.integers(0x02, 8, 0, 0, 0)
        connection.receive(frames: frames, number: 0, bytes: 5, at: Instant(nanoseconds: 0))
        let isActive = connection.isActive
        #expect(isActive)
        frames.integers(0x02, 9, 0, 0, 9)
        connection.receive(frames: frames, number: 1, bytes: 10, at: Instant(nanoseconds: 0))
        let code = connection.end?.code
        #expect(code == .protocolViolation)
    }

    /// Frames that ask for little, ten thousand of them: nothing is kept for each.
    @Test(
        arguments: [[0x01], [0x05, 1, 0], [0x04, 1, 0, 0], [0x10, 9], [0x11, 1, 9], [0x12, 9], [0x14, 0]] as [[UInt64]]
    )
    func floodsLeaveNothingBehind(_ frame: [UInt64]) {
        var connection = Self.connection(.initiator)
        for number in 0..<10_000 as Range<UInt64> {
            var frames = ByteBuffer()
            for value in frame { frames.writeVarInt(value) }
            connection.receive(frames: frames, number: number, bytes: 3, at: Instant(nanoseconds: 0))
        }
        let (isActive, events, queued) = (connection.isActive, connection.events.count, connection.queues.counts[0])
        let ranges = connection.received.rangeCount
        #expect(isActive)
        #expect(events <= 4)
        #expect(queued <= 2)
        #expect(ranges == 1)
    }

    /// One byte a frame, and nobody reads: no more is held than flow control promised, and then the connection ends.
    @Test func crumbsStayWithinTheCredit() {
        var connection = Self.connection(.initiator)
        for offset in 0..<Constants.initialStreamWindow {
            var frames = ByteBuffer()
            frames.stream(Self.stream, offset, "x")
            connection.receive(frames: frames, number: offset, bytes: 1, at: Instant(nanoseconds: 0))
        }
        let (isActive, held) = (connection.isActive, connection.memoryInUse)
        #expect(isActive)
        #expect(held == Int(Constants.initialStreamWindow))
        var taken = 0
        while case .bytes(let bytes) = connection.read(StreamID(rawValue: Self.stream)) {
            // Gathered, not one buffer for each byte.
            #expect(bytes.readableBytes > 1_000 || taken == 0)
            taken += bytes.readableBytes
        }
        #expect(taken == Int(Constants.initialStreamWindow))
    }

    /// A peer that reads but never acknowledges: we stop sending, and remember no more than the cap.
    @Test func withheldAcknowledgementsStopUs() throws {
        var pair = Pair()
        let opened = pair.openStream()
        let stream = try #require(opened)
        var sent = 0
        while sent < 2 * Constants.unacknowledgedMessages {
            pair.write(ByteBuffer(integer: UInt8(1)), to: stream)
            var message = ByteBuffer()
            guard pair.responder.writeNext(into: &message, for: Pair.carrier, at: Pair.now) else { break }
            sent += 1
        }
        #expect(sent <= Constants.unacknowledgedMessages)
        #expect(sent > Constants.unacknowledgedMessages / 2)
    }
}

extension Connection {
    /// How it ended, if it has.
    fileprivate var end: ConnectionEnd? {
        for case .ended(let end) in self.events { return end }
        return nil
    }
}

extension ByteBuffer {
    fileprivate mutating func integers(_ values: UInt64...) {
        for value in values { self.writeVarInt(value) }
    }

    /// STREAM with an offset and a length.
    fileprivate mutating func stream(_ id: UInt64, _ offset: UInt64, _ data: String, fin: Bool = false) {
        self.integers(fin ? 0x0f : 0x0e, id, offset, UInt64(data.utf8.count))
        self.writeString(data)
    }
}
