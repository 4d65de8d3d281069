import NIOCore
import Testing

@testable import Carriers

@Suite struct TurnTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    @Test func `a turn goes on for a millisecond, and ends with the 64th piece after it`() {
        var turn = Turn(at: self.start)
        var looks = 0
        func isOver(after work: Int, _ microseconds: Int64) -> Bool {
            turn.isOver(after: work) {
                looks += 1
                return self.start + .microseconds(microseconds)
            }
        }
        // What is quick has all of the loop, and asks for the time seldom.
        for _ in 0..<6_400 where isOver(after: 1, 999) { Issue.record("over before its time") }
        #expect(looks == 100)
        for _ in 0..<63 where isOver(after: 1, 5_000) { Issue.record("over before its work") }
        #expect(isOver(after: 1, 1_000))
    }

    @Test func `one large piece of work is asked for the time at once`() {
        var turn = Turn(at: self.start)
        #expect(!turn.isOver(after: 16_000) { self.start })
        #expect(turn.isOver(after: 16_000) { self.start + .milliseconds(1) })
        #expect(turn.isOverAfterMuch { self.start + .milliseconds(1) })
    }
}
