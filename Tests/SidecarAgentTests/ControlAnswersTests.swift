import InterceptProtocol
import Testing

@testable import SidecarAgent

@Suite struct ControlAnswersTests {
    private func out(_ answers: inout ControlAnswers) -> [ControlMessage] {
        var said: [ControlMessage] = []
        while let next = answers.next() { said.append(next) }
        return said
    }

    @Test func `what waits for nothing goes out at once`() {
        var answers = ControlAnswers()
        answers.append(.started(generation: 1))
        #expect(self.out(&answers) == [.started(generation: 1)])
        #expect(self.out(&answers) == [])
    }

    @Test func `nothing overtakes an answer that waits`() {
        var answers = ControlAnswers()
        let first = answers.reserve()
        let second = answers.reserve()
        answers.append(.stopped(total: 0, passed: 0))
        let third = answers.reserve()
        #expect(self.out(&answers) == [])
        answers.fill(second, .withdrawn(holder: nil))
        #expect(self.out(&answers) == [])
        answers.fill(first, .started(generation: 1))
        let said: [ControlMessage] = [.started(generation: 1), .withdrawn(holder: nil), .stopped(total: 0, passed: 0)]
        #expect(self.out(&answers) == said)
        answers.fill(third, .started(generation: 2))
        #expect(self.out(&answers) == [.started(generation: 2)])
        // One that has gone out, and one that was never asked for.
        answers.fill(first, .started(generation: 3))
        answers.fill(9, .started(generation: 3))
        #expect(self.out(&answers) == [])
    }

    @Test func `so much may wait, and no more`() {
        var answers = ControlAnswers()
        let first = answers.reserve()
        for _ in 1..<ControlAnswers.atMost {
            #expect(!answers.isFull)
            answers.append(.withdrawn(holder: nil))
        }
        #expect(answers.isFull)
        answers.fill(first, .started(generation: 1))
        #expect(self.out(&answers).count == ControlAnswers.atMost)
        #expect(!answers.isFull)
    }
}
