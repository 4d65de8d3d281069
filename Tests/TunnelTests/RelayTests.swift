import NIOCore
import Testing

@testable import Tunnel

/// A byte stream by way of other programs, of which one may die without a word.
@Suite struct RelayTests {
    private static func presences(_ pair: inout Pair) -> [Presence] {
        var presences: [Presence] = []
        while let event = pair.responder.nextEvent() {
            if case .connection(_, .presence(let presence)) = event { presences.append(presence) }
        }
        return presences
    }

    private static func opened(_ pair: inout Pair) throws -> StreamID {
        let stream = pair.openStream()
        return try #require(stream)
    }

    private static func isSilent(_ pair: inout Pair) -> Bool {
        pair.responder.withConnection(of: pair.key) { $0.isRelaySilent } ?? false
    }

    /// Sends a byte that nobody acknowledges, and returns when the peer is suspected, and when it is gone.
    private static func silence(_ pair: inout Pair) throws -> (suspected: TimeAmount?, gone: TimeAmount?) {
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(string: "x"), to: stream)
        var message = ByteBuffer()
        _ = pair.responder.writeNext(into: &message, for: Pair.carrier, at: Pair.now)
        var suspected: TimeAmount?
        for milliseconds in stride(from: Int64(50), through: 8_000, by: 50) {
            let time = TimeAmount.milliseconds(milliseconds)
            pair.responder.handleDeadline(at: Pair.now + time)
            for presence in Self.presences(&pair) {
                if presence == .suspected { suspected = time }
                if presence == .gone { return (suspected, time) }
            }
        }
        return (suspected, nil)
    }

    @Test func aSilentRelayIsSuspectedSooner() throws {
        var pair = Pair(.relay)
        let relay = try Self.silence(&pair)
        expect(relay.suspected == .seconds(1))
        expect(relay.gone == .seconds(6))
        var other = Pair(.stream)
        let stream = try Self.silence(&other)
        expect(stream.suspected == .seconds(2))
        expect(stream.gone == .seconds(6))
    }

    @Test func aRelayThatSpeaksAgainGoesOn() throws {
        var pair = Pair(.relay)
        let stream = try Self.opened(&pair)
        pair.write(ByteBuffer(string: "before"), to: stream)
        var late = ByteBuffer()
        _ = pair.responder.writeNext(into: &late, for: Pair.carrier, at: Pair.now)
        pair.responder.handleDeadline(at: Pair.now + .seconds(1))
        expect(Self.presences(&pair) == [.suspected])
        expect(Self.isSilent(&pair))
        let later = Pair.now + .seconds(3)
        _ = pair.initiator.receive(late, from: Pair.carrier, at: later)
        pair.initiator.handleDeadline(at: later + .milliseconds(50))
        pair.passAll(at: later + .milliseconds(50))
        expect(Self.presences(&pair) == [.live])
        expect(!Self.isSilent(&pair))
        pair.write(ByteBuffer(string: " and after"), to: stream)
        pair.passAll(at: later + .milliseconds(100))
        var taken = ByteBuffer()
        _ = pair.initiator.withConnection { connection in
            while case .bytes(var bytes) = connection.read(stream) { taken.writeBuffer(&bytes) }
        }
        expect(String(buffer: taken), is: "before and after")
    }

    /// What waits in the buffers of a slow relay's programs is old, but some of it arrives all the time.
    @Test func aSlowRelayIsNotSuspected() throws {
        var pair = Pair(.relay)
        let stream = try Self.opened(&pair)
        var waiting = CircularBuffer<ByteBuffer>()
        var now = Pair.now
        for step in 0..<100 {
            now = Pair.now + .milliseconds(Int64(step) * 100)
            pair.write(ByteBuffer(string: "x"), to: stream)
            pair.responder.handleDeadline(at: now)
            var message = ByteBuffer()
            while pair.responder.writeNext(into: &message, for: Pair.carrier, at: now) {
                waiting.append(message)
                message = ByteBuffer()
            }
            // The way gets slower: what arrives was sent up to 3 s ago.
            guard step % 2 == 0 || waiting.count > 30, let arrived = waiting.popFirst() else { continue }
            _ = pair.initiator.receive(arrived, from: Pair.carrier, at: now)
            pair.initiator.handleDeadline(at: now + .milliseconds(26))
            while pair.pass(.initiator, at: now + .milliseconds(26)) {}
        }
        expect(waiting.count > 20)
        expect(Self.presences(&pair) == [])
    }

    @Test func bytesWaitForAnAnswerOnceOneIsLate() throws {
        for kind in [CarrierKind.stream, .relay] {
            var pair = Pair(kind)
            let stream = try Self.opened(&pair)
            pair.write(ByteBuffer(string: "x"), to: stream)
            var message = ByteBuffer()
            _ = pair.responder.writeNext(into: &message, for: Pair.carrier, at: Pair.now)
            func inTime(_ milliseconds: Int64) -> Bool? {
                pair.responder.withConnection(of: pair.key) {
                    $0.answersInTime(at: Pair.now + .milliseconds(milliseconds))
                }
            }
            expect(inTime(10) == true)
            expect(inTime(100) == false)
            _ = pair.initiator.receive(message, from: Pair.carrier, at: Pair.now + .milliseconds(200))
            pair.passAll(at: Pair.now + .milliseconds(300))
            expect(inTime(310) == true)
        }
    }
}
