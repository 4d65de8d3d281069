import NIOCore
import NIOEmbedded
import Testing

@testable import WorkspaceAgent

/// Local servers are dialled in turns.
@Suite struct DialTurnsTests {
    private final class Made {
        var numbers: [Int] = []
    }

    @Test func whatComesAtOnceIsSpreadAndStaysInOrder() {
        let loop = EmbeddedEventLoop()
        let turns = DialTurns(on: loop)
        let made = Made()
        let each = DialTurns.atOnce
        for number in 0..<3 * each { turns.make { made.numbers.append(number) } }
        #expect(made.numbers.count == each)
        turns.turnIsOver()
        // Those that wait come first, however late another asks.
        turns.make { made.numbers.append(3 * each) }
        #expect(made.numbers.count == each)
        for turn in 2...4 {
            loop.advanceTime(by: .microseconds(20))
            #expect(made.numbers.count == min(turn * each, 3 * each + 1))
        }
        #expect(made.numbers == Array(0...3 * each))
    }

    @Test func turnsThatEndKeepNobodyWaiting() {
        let turns = DialTurns(on: EmbeddedEventLoop())
        let made = Made()
        for number in 0..<10 * DialTurns.atOnce {
            turns.make { made.numbers.append(number) }
            if number % 8 == 7 { turns.turnIsOver() }
        }
        #expect(made.numbers.count == 10 * DialTurns.atOnce)
    }
}
