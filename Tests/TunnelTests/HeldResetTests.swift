import NIOCore
import Testing

@testable import Tunnel

/// A TCP reset comes behind what was received before it; a reset for any other reason doesn't wait.
@Suite struct HeldResetTests {
    private static let now = Pair.now

    /// What the initiator is told of a stream, and what it takes, whenever something is to be had.
    private struct Reader {
        var taken = ByteBuffer()
        var events: [ConnectionEvent] = []

        var codes: [StreamErrorCode] {
            self.events.compactMap {
                switch $0 {
                case .reset(_, let code), .stopped(_, let code): code
                default: nil
                }
            }
        }

        mutating func hear(_ pair: inout Pair) {
            while let event = pair.initiator.nextEvent() {
                if case .connection(let event) = event { self.events.append(event) }
            }
        }

        mutating func take(_ stream: StreamID, _ pair: inout Pair) {
            _ = pair.initiator.withConnection { connection in
                while case .bytes(var bytes) = connection.read(stream) { self.taken.writeBuffer(&bytes) }
            }
        }
    }

    private static func reset(_ stream: StreamID, _ code: StreamErrorCode, _ pair: inout Pair) {
        _ = pair.responder.withConnection(of: pair.key) { connection in
            connection.stopSending(stream, code)
            connection.reset(stream, code)
            connection.release(stream)
        }
    }

    private static func opened(_ pair: inout Pair) throws -> StreamID {
        let stream = pair.openStream()
        return try #require(stream)
    }

    /// More than the stream's window: the rest can only go once the other side has taken some.
    @Test func allBytesComeBeforeAReset() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        let bytes = ByteBuffer(bytes: pattern(0..<400_000))
        pair.write(bytes, to: stream)
        Self.reset(stream, .tcpReset, &pair)
        var reader = Reader()
        while reader.codes.isEmpty {
            let before = reader.taken.readableBytes
            pair.passAll()
            reader.hear(&pair)
            if reader.codes.isEmpty { reader.take(stream, &pair) }
            try #require(reader.taken.readableBytes > before || !reader.codes.isEmpty)
        }
        // All has come; the last part was not taken yet, and still can be.
        expect(reader.taken.readableBytes < bytes.readableBytes)
        reader.take(stream, &pair)
        expect(reader.taken == bytes)
        expect(reader.codes, is: [.tcpReset, .tcpReset])
        let isLeft = pair.responder.withConnection(of: pair.key) { $0.streams.peek(stream) != nil } ?? false
        expect(!isLeft)
    }

    @Test func otherCodesDontWait() throws {
        for code in [StreamErrorCode.handedToOriginal, .timedOut, .shuttingDown] {
            var pair = Pair()
            let stream = try Self.opened(&pair)
            pair.write(ByteBuffer(bytes: pattern(0..<400_000)), to: stream)
            pair.pass(.responder)
            Self.reset(stream, code, &pair)
            var reader = Reader()
            pair.passAll()
            reader.hear(&pair)
            reader.take(stream, &pair)
            expect(reader.codes, is: [code, code])
            expect(reader.taken.readableBytes, is: 0)
        }
    }

    /// Any other reason takes the place of a reset that waits.
    @Test func anotherCodeEndsTheWaiting() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(bytes: pattern(0..<400_000)), to: stream)
        _ = pair.responder.withConnection(of: pair.key) { connection in
            connection.stopSending(stream, .tcpReset)
            connection.reset(stream, .tcpReset)
            connection.reset(stream, .shuttingDown)
        }
        var reader = Reader()
        pair.passAll()
        reader.hear(&pair)
        expect(reader.codes, is: [.shuttingDown, .tcpReset])
    }

    /// The end that was said comes first, and the wish for no more bytes behind it.
    @Test func anEndComesBeforeAStop() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(bytes: pattern(0..<1_000)), to: stream)
        _ = pair.responder.withConnection(of: pair.key) { connection in
            connection.finish(stream)
            connection.stopSending(stream, .tcpReset)
            connection.reset(stream, .tcpReset)
        }
        var reader = Reader()
        pair.pass(.responder)
        reader.hear(&pair)
        expect(reader.codes, is: [])
        // Acknowledged when an ACK may wait no longer.
        pair.initiator.handleDeadline(at: Self.now + .milliseconds(30))
        pair.passAll(at: Self.now + .milliseconds(30))
        reader.hear(&pair)
        // The direction with the end is not reset any more.
        expect(reader.events.filter { if case .reset = $0 { true } else { false } }.count, is: 0)
        expect(reader.codes, is: [.tcpReset])
        reader.take(stream, &pair)
        expect(reader.taken.readableBytes, is: 1_000)
    }

    /// An urgent byte is one of those that were written before, and comes as such.
    @Test func anUrgentByteComesBeforeAReset() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(string: "ab"), to: stream)
        _ = pair.responder.withConnection(of: pair.key) { $0.writeUrgent(UInt8(ascii: "c"), to: stream) }
        Self.reset(stream, .tcpReset, &pair)
        var reader = Reader()
        pair.passAll()
        reader.hear(&pair)
        expect(reader.codes, is: [])
        pair.initiator.handleDeadline(at: Self.now + .milliseconds(30))
        pair.passAll(at: Self.now + .milliseconds(30))
        reader.hear(&pair)
        expect(reader.codes, is: [.tcpReset, .tcpReset])
        let said = pair.initiator.withConnection { connection in
            var said: [String] = []
            while true {
                let isUrgent = connection.urgentIsNext(stream)
                guard case .bytes(let bytes) = connection.read(stream) else { return said }
                said.append(String(buffer: bytes) + (isUrgent ? " urgent" : ""))
            }
        }
        expect(said, is: ["ab", "c urgent"])
    }

    /// Nothing is to wait for: it goes at once.
    @Test func withNothingUnacknowledgedNothingWaits() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(string: "a"), to: stream)
        pair.passAll(at: Self.now)
        pair.passAll(at: Self.now + .milliseconds(30))
        pair.initiator.handleDeadline(at: Self.now + .milliseconds(60))
        pair.passAll(at: Self.now + .milliseconds(60))
        Self.reset(stream, .tcpReset, &pair)
        let waiting = pair.responder.withConnection(of: pair.key) { $0.heldResets.count }
        expect(waiting, is: 0)
    }

    /// A peer that takes nothing: ten seconds after the last byte that it acknowledged the rest is given up.
    @Test func noProgressEndsTheWaiting() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(bytes: pattern(0..<400_000)), to: stream)
        Self.reset(stream, .tcpReset, &pair)
        var reader = Reader()
        func second(_ count: Int64) -> Instant { Self.now + .seconds(count) }
        var forced: UInt64 = 0
        for count in 0...12 as ClosedRange<Int64> {
            pair.responder.handleDeadline(at: second(count))
            pair.initiator.handleDeadline(at: second(count))
            pair.passAll(at: second(count))
            reader.hear(&pair)
            // A little progress puts it off.
            if count == 2 {
                reader.take(stream, &pair)
                pair.passAll(at: second(count))
            }
            forced = pair.responder.withConnection(of: pair.key) { $0.statistics.resetsForced } ?? 0
            expect(forced, is: 0, "after \(count) s")
            expect(reader.codes, is: [], "after \(count) s")
        }
        for count in 13...16 as ClosedRange<Int64> {
            pair.responder.handleDeadline(at: second(count))
            pair.passAll(at: second(count))
            reader.hear(&pair)
        }
        forced = pair.responder.withConnection(of: pair.key) { $0.statistics.resetsForced } ?? 0
        expect(forced, is: 1)
        expect(reader.codes, is: [.tcpReset, .tcpReset])
    }

    /// Clients that say something and are reset, in front of a peer that takes nothing.
    @Test func whatWaitsIsBounded() throws {
        var pair = Pair()
        let bytes = ByteBuffer(bytes: pattern(0..<65_536))
        var held = 0
        for _ in 0..<1_000 {
            let stream = try Self.opened(&pair)
            pair.write(bytes, to: stream)
            Self.reset(stream, .tcpReset, &pair)
            held = max(held, pair.responder.withConnection(of: pair.key) { $0.memoryInUse } ?? 0)
        }
        let bound = Constants.heldWithin * Constants.sendBufferPerConnection
        expect(held <= bound + 65_536, "\(held)")
        expect(held > bound / 2)
    }

    /// What was lost with a carrier goes out on the next one, and the reset behind it.
    @Test func itWaitsOverAChangeOfCarriers() throws {
        var pair = Pair()
        let stream = try Self.opened(&pair)
        let bytes = ByteBuffer(bytes: pattern(0..<50_000))
        pair.write(bytes, to: stream)
        // All of it is written, and lost.
        var lost = ByteBuffer()
        while pair.responder.writeNext(into: &lost, for: Pair.carrier, at: Self.now) { lost.clear() }
        Self.reset(stream, .tcpReset, &pair)
        let later = Self.now + .seconds(5)
        let next = CarrierID(2)
        pair.initiator.carrierClosed(Pair.carrier, at: later)
        pair.responder.carrierClosed(Pair.carrier, at: later)
        pair.initiator.carrierOpened(next, at: later)
        pair.responder.carrierOpened(next, at: later)
        pair.passAll(over: next, at: later)
        var reader = Reader()
        reader.hear(&pair)
        reader.take(stream, &pair)
        expect(reader.taken == bytes)
        expect(reader.codes, is: [.tcpReset, .tcpReset])
    }

    /// Bytes beyond a gap never become readable; credit for all up to the final size goes back.
    @Test func onlyWhatIsInOrderIsLeftOfAResetStream() {
        for takes in [true, false] {
            var connection = MisbehavingPeerTests.connection(.initiator)
            var frames = ByteBuffer()
            func integers(_ values: UInt64...) { for value in values { frames.writeVarInt(value) } }
            integers(0x0e, 1, 0, 3)
            frames.writeString("abc")
            integers(0x0e, 1, 5, 1)
            frames.writeString("f")
            integers(0x04, 1, 0, 100)
            // A part of what the reset has made pointless comes late.
            integers(0x0e, 1, 3, 1)
            frames.writeString("d")
            connection.receive(frames: frames, number: 0, bytes: 40, at: Self.now)
            let id = StreamID(rawValue: 1)
            if takes {
                expect(connection.read(id) == .bytes(ByteBuffer(string: "abc")))
                expect(connection.read(id) == .nothing)
            }
            connection.release(id)
            connection.reset(id, .tcpReset)
            let (memory, gaps) = (connection.memoryInUse, connection.flow.gapCount)
            expect(memory, is: 0)
            expect(gaps, is: 0)
        }
    }
}
