import NIOCore
import Noise
import Testing

@testable import Tunnel

/// One accepted key, and what it leaves to the others.
@Suite struct SharesTests {
    private final class Stage {
        var now = Instant.seconds(1)
        let sidecar = StaticKeyPair.generate()
        var responder: Responder

        init() {
            self.responder = Responder(staticKey: self.sidecar, configuration: TunnelConfiguration(), random: .system)
        }

        func initiator() -> Initiator {
            let key = StaticKeyPair.generate()
            self.responder.accept(key.publicKey)
            let configuration = Initiator.Configuration(staticKey: key, responder: self.sidecar.publicKey)
            return Initiator(configuration, random: .system) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
        }

        /// What an initiator says first on a new stream.
        func open(_ carrier: CarrierID, _ initiator: inout Initiator) -> ByteBuffer {
            initiator.carrierOpened(carrier, at: self.now)
            self.responder.carrierOpened(carrier, at: self.now)
            var message = ByteBuffer()
            expect(initiator.writeNext(into: &message, for: carrier, at: self.now))
            return message
        }

        func hand(_ message: ByteBuffer, on carrier: CarrierID) -> MessageVerdict {
            self.responder.receive(message, from: carrier, at: self.now)
        }

        var events: [Responder.Event] {
            var events: [Responder.Event] = []
            while let event = self.responder.nextEvent() { events.append(event) }
            return events
        }
    }

    /// It is accepted, so its stream is a known key's; what it says there again and again is none of the others' budget.
    @Test func `an initiation that is repeated leaves others their turns`() {
        let stage = Stage()
        stage.responder.handshakeBudget = HandshakeBudget(perSecond: 1_000, atOnce: 1)
        var loud = stage.initiator()
        let old = stage.open(CarrierID(1), &loud)
        #expect(stage.hand(old, on: CarrierID(1)) == .taken)
        var waiting: [ByteBuffer] = []
        for number in 2...4 as ClosedRange<UInt64> {
            var other = stage.initiator()
            waiting.append(stage.open(CarrierID(number), &other))
        }
        let begun = stage.now
        var repeated: [MessageVerdict] = []
        for step in 0..<100 as Range<Int64> {
            stage.now = begun + .microseconds(200 * step)
            for _ in 0..<10 { repeated.append(stage.hand(old, on: CarrierID(1))) }
            if step == 0 {
                for (at, message) in waiting.enumerated() {
                    #expect(stage.hand(message, on: CarrierID(UInt64(at + 2))) == .waits)
                }
                let next = stage.responder.nextDeadline
                #expect(next.map { $0 <= begun + .milliseconds(5) } ?? false)
            }
            stage.responder.handleDeadline(at: stage.now)
        }
        #expect(repeated.allSatisfy { $0 == .dropped(.overBudget) })
        let answered = stage.events.filter { if case .answered = $0 { true } else { false } }
        #expect(answered == [.answered(CarrierID(2)), .answered(CarrierID(3)), .answered(CarrierID(4))])
        // After its pause it may try again, and waits for its turn as the others did.
        stage.now = begun + .milliseconds(20)
        #expect(stage.hand(old, on: CarrierID(1)) != .taken)
    }

    /// Each answered initiation makes a stream a known key's, which no stranger's limit counts any more.
    @Test func `a key keeps no more streams that nothing was said on than sessions`() {
        let stage = Stage()
        var initiator = stage.initiator()
        for number in 1...10 as ClosedRange<UInt64> {
            let message = stage.open(CarrierID(number), &initiator)
            #expect(stage.hand(message, on: CarrierID(number)) == .taken)
            stage.now = stage.now + .milliseconds(30)
        }
        let closed = stage.events.filter { if case .closeCarrier = $0 { true } else { false } }
        #expect(closed == (1...6).map { .closeCarrier(CarrierID($0)) })
    }

    // MARK: Datagrams

    @Test func `alone a peer has all of the socket, and beside another its share of a turn`() {
        var turn = DatagramTurn()
        let now = Instant.seconds(1)
        var (loud, quiet) = (DatagramTurn.Part(), DatagramTurn.Part())
        for _ in 0..<100_000 {
            expect(!turn.isOver(for: &loud, at: now))
            turn.spend(2, of: &loud)
        }
        expect(!turn.isOver(for: &quiet, at: now))
        expect(turn.isOver(for: &loud, at: now))
        expect(!turn.isOver(for: &quiet, at: now))
        // Nothing is left in the socket, or others have had their time: then it goes on.
        turn.end()
        var taken = 0
        while !turn.isOver(for: &loud, at: now), taken < 10_000 {
            turn.spend(2, of: &loud)
            taken += 1
        }
        #expect(taken == DatagramTurn.share / 2)
        expect(!turn.isOver(for: &loud, at: now + DatagramTurn.time))
        // The other has been gone for two turns.
        for _ in 0..<3 {
            turn.end()
            expect(!turn.isOver(for: &loud, at: now))
        }
        turn.spend(1 << 20, of: &loud)
        expect(!turn.isOver(for: &loud, at: now))
    }
}
