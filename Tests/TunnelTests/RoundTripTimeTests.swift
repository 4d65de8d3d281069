import NIOCore
import Testing

@testable import Tunnel

@Suite struct RoundTripTimeTests {
    /// RFC 9002 §6.2.2: without a sample, 333 ms and half of it.
    @Test func withoutASample() {
        let time = RoundTripTime()
        #expect(time.latest == nil)
        #expect(time.smoothed == .milliseconds(333))
        // 333 + 4 · 166.5 + 25.
        #expect(time.probeTimeout == .milliseconds(1_024))
    }

    @Test func firstSampleReplacesTheGuess() {
        var time = RoundTripTime()
        time.sample(.milliseconds(40), ackDelay: .milliseconds(20))
        #expect(time.latest == .milliseconds(40))
        #expect(time.minimum == .milliseconds(40))
        #expect(time.smoothed == .milliseconds(40))
        #expect(time.variation == .milliseconds(20))
        #expect(time.probeTimeout == .milliseconds(40 + 80 + 25))
    }

    /// RFC 9002 §5.3, worked by hand.
    @Test func secondSample() {
        var time = RoundTripTime()
        time.sample(.milliseconds(40), ackDelay: .zero)
        time.sample(.milliseconds(56), ackDelay: .milliseconds(8))
        #expect(time.smoothed == .milliseconds(41))
        #expect(time.variation == .milliseconds(17))
        #expect(time.minimum == .milliseconds(40))
    }

    /// A peer can't say that it waited longer than it may, nor make a round trip shorter than the shortest.
    @Test func delayIsBounded() {
        var time = RoundTripTime()
        time.sample(.milliseconds(40), ackDelay: .zero)
        time.sample(.milliseconds(100), ackDelay: .seconds(60))
        // (7 · 40 + 75) / 8.
        #expect(time.smoothed == .nanoseconds(44_375_000))
        var short = RoundTripTime()
        short.sample(.milliseconds(40), ackDelay: .zero)
        short.sample(.milliseconds(41), ackDelay: .milliseconds(10))
        #expect(short.smoothed == .nanoseconds(40_125_000))
    }

    @Test func extremes() {
        var time = RoundTripTime()
        for sample in [TimeAmount.zero, .nanoseconds(-5), .nanoseconds(1), .hours(24 * 365), .zero] {
            time.sample(sample, ackDelay: .zero)
            #expect(time.smoothed > .zero)
            #expect(time.probeTimeout >= .milliseconds(26))
        }
    }
}
