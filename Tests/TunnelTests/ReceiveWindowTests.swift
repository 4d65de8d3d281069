import NIOCore
import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct ReceiveWindowTests {
    @Test func creditIsExact() {
        var window = ReceiveWindow(window: 100)
        expect(window.receive(60))
        expect(!window.receive(41))
        #expect(window.received == 60)
        expect(window.receive(40))
        expect(window.receive(0))
        expect(!window.receive(1))
        expect(!window.receive(.max))
        #expect(window.buffered == 100)
    }

    /// The peer hears of it once a quarter of the window has been consumed.
    @Test func announcedByQuarters() {
        var window = ReceiveWindow(window: 100)
        expect(window.receive(100))
        window.consume(25)
        #expect(!window.wantsUpdate)
        window.consume(1)
        #expect(window.wantsUpdate)
        expect(window.update(at: .seconds(1), roundTripTime: .milliseconds(10), windowAtMost: 100), is: 126)
        #expect(!window.wantsUpdate)
        expect(window.receive(26))
        expect(!window.receive(1))
    }

    @Test func consumesNoMoreThanCame() {
        var window = ReceiveWindow(window: 100)
        expect(window.receive(10))
        window.consume(.max)
        #expect(window.consumed == 10)
        #expect(window.buffered == 0)
    }

    /// Consumed as fast as it came in a round trip: the window held the sender back, and grows.
    @Test func growsWithTheBandwidth() {
        var window = ReceiveWindow(window: 1_000)
        var now = Instant.seconds(0)
        for _ in 0..<20 {
            expect(window.receive(window.limit - window.received))
            window.consume(.max)
            _ = window.update(at: now, roundTripTime: .milliseconds(100), windowAtMost: 64_000)
            now = now + .milliseconds(10)
        }
        #expect(window.window == 64_000)
    }

    /// A reader that takes its time is what holds the sender back: the window stays.
    @Test func staysSmallForASlowReader() {
        var window = ReceiveWindow(window: 1_000)
        var now = Instant.seconds(0)
        for _ in 0..<50 {
            _ = window.receive(min(300, window.limit - window.received))
            window.consume(300)
            if window.wantsUpdate {
                _ = window.update(at: now, roundTripTime: .milliseconds(100), windowAtMost: 64_000)
            }
            now = now + .seconds(1)
        }
        #expect(window.window == 1_000)
    }

    /// All that is in order was taken, and what lies beyond a gap holds the sender back: that is no slow reader.
    @Test func growsWhileAGapIsMended() {
        var window = ReceiveWindow(window: 1_000)
        expect(window.receive(500))
        expect(!window.growPastGaps(windowAtMost: 3_000))
        expect(window.receive(1))
        expect(window.growPastGaps(windowAtMost: 3_000))
        #expect(window.limit == 2_000)
        expect(window.receive(1_499))
        expect(window.growPastGaps(windowAtMost: 3_000))
        #expect(window.limit == 3_000)
        expect(window.receive(1_000))
        expect(!window.growPastGaps(windowAtMost: 3_000))
        // What was granted in advance doesn't count as used.
        window.consume(3_000)
        expect(window.update(at: .seconds(1), roundTripTime: .milliseconds(10), windowAtMost: 3_000), is: 6_000)
    }

    /// Limits only rise, whatever the cap has become.
    @Test(arguments: 0..<50) func neverShrinks(_ seed: UInt64) {
        let random = SeededRandom(seed: seed)
        var window = ReceiveWindow(window: UInt64(random.logarithmic(1...100_000)))
        var now = Instant.seconds(0)
        var limit = window.limit
        for _ in 0..<200 {
            let free = Int(window.limit - window.received)
            expect(window.receive(UInt64(random.between(0...free))))
            window.consume(UInt64(random.between(0...Int(window.buffered))))
            now = now + .nanoseconds(Int64(random.logarithmic(1...1_000_000_000)) - 1)
            if random.isOne(in: 2) {
                let cap = UInt64(random.logarithmic(1...1_000_000))
                let before = window.window
                let announced = window.update(
                    at: now,
                    roundTripTime: .nanoseconds(Int64(random.logarithmic(1...1_000_000_000)) - 1),
                    windowAtMost: cap
                )
                #expect(announced >= limit)
                #expect(window.window <= max(cap, before))
                #expect(announced <= max(limit, window.consumed + window.window))
                limit = announced
            }
            #expect(window.buffered <= max(window.window, limit - window.consumed))
        }
    }

    @Test func sendCredit() {
        var credit = SendCredit(limit: 10)
        credit.use(4)
        #expect(credit.available == 6)
        expect(!credit.raise(to: 10))
        expect(!credit.raise(to: 3))
        #expect(credit.limit == 10)
        expect(credit.raise(to: VarInt.max))
        #expect(credit.available == VarInt.max - 4)
        credit.use(.max)
        #expect(credit.available == 0)
    }
}
