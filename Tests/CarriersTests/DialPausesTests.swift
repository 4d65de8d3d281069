import NIOCore
import Noise
import Testing
import Tunnel

@testable import Carriers

/// When a byte stream is dialled again.
@Suite struct DialPausesTests {
    /// Draws nothing but zeros: no jitter.
    private static var still: RandomSource { RandomSource { _ in } }
    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    private static func steps(_ pauses: inout DialPauses, _ count: Int) -> [Int64] {
        (0..<count).map { _ in
            guard case .later(let pause, let step) = pauses.afterFailure(saysLittle: false, random: Self.still),
                pause == step
            else { return -1 }
            return step.nanoseconds / 1_000_000
        }
    }

    @Test func stepsGrow() {
        var pauses = DialPauses()
        #expect(Self.steps(&pauses, 10) == [0, 100, 200, 400, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000])
        pauses.startOver()
        #expect(Self.steps(&pauses, 2) == [0, 100])
    }

    @Test func jitterIsAThirdAtMost() {
        var pauses = DialPauses()
        for _ in 0..<100 {
            guard case .later(let pause, let step) = pauses.afterFailure(saysLittle: false, random: .system) else {
                Issue.record("a failure that is no silence")
                continue
            }
            #expect(pause >= step && pause <= step + min(.milliseconds(333), .nanoseconds(step.nanoseconds / 3)))
        }
    }

    /// The sidecar may have been busy: one silence is tried again soon, and not reported.
    @Test func oneSilenceSaysLittle() {
        var pauses = DialPauses()
        #expect(pauses.afterFailure(saysLittle: true, random: Self.still) == .soon(.milliseconds(50)))
        #expect(
            pauses.afterFailure(saysLittle: true, random: Self.still)
                == .later(pause: .milliseconds(100), step: .milliseconds(100))
        )
    }

    @Test func carriersThatAreCutSoonAreDialledLater() {
        var pauses = DialPauses()
        #expect(pauses.afterCarrier(thatLived: .milliseconds(249)) == .milliseconds(50))
        #expect(pauses.afterCarrier(thatLived: .milliseconds(250)) == .zero)
        // A failure after that is no first one.
        #expect(Self.steps(&pauses, 1) == [100])
    }

    @Test func connectionsThatEndWithErrorsAreBegunLater() {
        var pauses = ErrorPauses()
        #expect(pauses.current == nil)
        var seconds: [Int64] = []
        for number in 0..<7 as Range<Int64> {
            pauses.connectionBegan(at: Self.start + .seconds(number))
            pauses.connectionEndedBadly(at: Self.start + .seconds(number + 59))
            seconds.append((pauses.current ?? .zero).nanoseconds / 1_000_000_000)
        }
        #expect(seconds == [1, 2, 4, 8, 15, 15, 15])
        pauses.connectionBegan(at: Self.start)
        pauses.connectionEndedBadly(at: Self.start + .seconds(60))
        #expect(pauses.current == .seconds(1))
    }
}
