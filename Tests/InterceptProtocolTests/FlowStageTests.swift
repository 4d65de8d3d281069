import NIOCore
import Testing

@testable import InterceptProtocol

extension FlowTimes {
    static func same(_ time: TimeAmount) -> FlowTimes { FlowTimes(unanswered: time, answered: time, crowded: time) }
}

/// How long flows live, and which go first, by a clock of the test's own.
@Suite struct FlowStageTests {
    private typealias Table = FlowTable<Int, Int>

    private static func at(_ seconds: Double) -> NIODeadline {
        .uptimeNanoseconds(1_000_000_000) + .nanoseconds(Int64(seconds * 1e9))
    }

    /// What happened to one flow, and at which second: "?" a question, "!" an answer.
    private static func table(_ said: [(Character, Double)], times: FlowTimes = .atSidecar(kernel: nil)) -> Table {
        var table = Table(atMost: 10, times: times)
        table.insert(0, for: 0, at: Self.at(0))
        for (what, when) in said { _ = table.use(0, isAnswer: what == "!", at: Self.at(when)) }
        return table
    }

    private static func end(_ table: Table) -> Double? {
        table.nextExpiry.map { Double(($0 - Self.at(0)).nanoseconds) / 1e9 }
    }

    @Test func answeredFlowsLiveForTwoMinutesOthersForHalfOfOne() {
        #expect(Self.end(Self.table([])) == 30)
        #expect(Self.end(Self.table([("?", 20)])) == 50)
        // What the server says after 75 s of silence reaches its client.
        #expect(Self.end(Self.table([("!", 0.01)])) == 120.01)
        #expect(Self.end(Self.table([("!", 0.01), ("!", 75)])) == 195)
        #expect(Self.end(Self.table([("!", 1), ("?", 5), ("!", 6)])) == 126)
    }

    @Test func asLongAsTheKernelAndLongerAtTheWorkspace() {
        let known: [(Int64?, Int64)] = [(nil, 120), (0, 120), (30, 120), (121, 121), (300, 300), (86_400, 600)]
        for (kernel, seconds) in known {
            let times = FlowTimes.atSidecar(kernel: kernel.map { .seconds($0) })
            #expect(times.answered == .seconds(seconds))
            #expect(times.unanswered == .seconds(30) && times.crowded == .seconds(30))
            #expect(times.answered < FlowTimes.atWorkspace.answered)
            #expect(times.answered < FlowTimes.atWorkspace.crowded)
            #expect(times.unanswered < FlowTimes.atWorkspace.unanswered)
        }
    }

    /// What was said, and whether that is a session.
    private static let stories: [([(Character, Double)], Bool)] = [
        ([("!", 1)], false),
        ([("!", 1), ("!", 1.5)], false),
        ([("!", 0.1), ("?", 0.2)], false),
        ([("?", 0.1), ("!", 0.2)], false),
        // A second exchange.
        ([("!", 0.1), ("?", 0.2), ("!", 0.3)], true),
        // As conntrack: anything, either way, later than 2 s after the first question, once there was an answer.
        ([("!", 1), ("?", 2)], false),
        ([("!", 1), ("?", 2.1)], true),
        ([("!", 1), ("!", 2.1)], true),
        ([("!", 2.1)], false),
        ([("?", 2.1), ("!", 2.2)], false),
        ([("?", 2.1)], false),
    ]

    /// It shows where there are many: a flow with a single exchange ends after 30 s then.
    @Test(arguments: Self.stories)
    func aSecondExchangeMakesASession(said: [(Character, Double)], isSession: Bool) throws {
        var table = Self.table(said)
        // Six of ten places are taken.
        for key in 1...5 { table.insert(key, for: key, at: Self.at(3)) }
        let last = said.last?.1 ?? 0
        _ = table.expire(at: Self.at(last + 29.9))
        #expect(table.peek(0) == 0)
        for key in 1...5 { _ = table.use(key, at: Self.at(last + 29.9)) }
        #expect(table.expire(at: Self.at(last + 30)) == (isSession ? [] : [0]))
    }

    @Test func oneExchangeIsKeptWhereThereIsRoom() {
        var table = Table(atMost: 10, times: .atSidecar(kernel: nil))
        for key in 0..<10 {
            table.insert(key, for: key, at: Self.at(Double(key)))
            _ = table.use(key, isAnswer: true, at: Self.at(Double(key)))
        }
        // Half of the places are free again, and the others keep theirs.
        #expect(table.nextExpiry == Self.at(30))
        #expect(table.expire(at: Self.at(60)) == [0, 1, 2, 3, 4])
        #expect(table.nextExpiry == Self.at(125))
        #expect(table.expire(at: Self.at(125)) == [5])
    }

    /// Resolvers' clients ask once each, from ever new ports; forged senders too, and they are answered as well.
    @Test func oneQuestionFlowsPushOutNoSession() {
        var table = Table(atMost: 100, times: .atSidecar(kernel: nil))
        for key in 0..<50 {
            table.insert(key, for: key, at: Self.at(0))
            for second in [0.1, 0.2, 0.3] { _ = table.use(key, isAnswer: second != 0.2, at: Self.at(second)) }
        }
        var waiting: [Int] = []
        for number in 1_000..<20_000 {
            let now = Self.at(1 + Double(number) * 0.005)
            _ = table.expire(at: now)
            table.insert(number, for: number, at: now)
            waiting.append(number)
            // Most are answered, some after a while, some never.
            if waiting.count > number % 45, let asked = waiting.popLast() {
                _ = table.use(asked, isAnswer: true, at: now)
            }
            if waiting.count > 45 { waiting.removeFirst() }
        }
        for key in 0..<50 { #expect(table.peek(key) == key) }
        #expect(table.count <= 100)
        // They do end by their own time.
        #expect(table.expire(at: Self.at(120.3)).filter { $0 < 1_000 } == Array(0..<50))
    }

    /// Against plain values, by the same steps.
    @Test func isWhatPlainListsWouldBe() {
        var model = Model(atMost: 12)
        var table = Table(atMost: 12, times: model.times)
        var state: UInt64 = 4_711
        func draw(_ count: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % count
        }
        var now = 0.0
        for _ in 0..<30_000 {
            now += Double(draw(8)) / 4
            let key = draw(24)
            switch draw(8) {
            case 0: #expect(table.insert(key, for: key, at: Self.at(now)) == model.insert(key, at: now))
            case 1: #expect(table.expire(at: Self.at(now)) == model.expire(at: now))
            default:
                let isAnswer = draw(2) == 0
                let isKnown = table.use(key, isAnswer: isAnswer, at: Self.at(now)) != nil
                #expect(isKnown == model.use(key, isAnswer, at: now))
            }
            #expect(table.count == model.flows.count)
            guard table.nextExpiry == model.nextEnd.map(Self.at) else {
                Issue.record("the next end is another")
                return
            }
        }
    }

    private struct Model {
        struct Flow {
            var key: Int
            var begun: Double
            var used: Double
            var stage = 0
            var again = false
        }

        let atMost: Int
        let times = FlowTimes(unanswered: .seconds(5), answered: .seconds(20), crowded: .seconds(7))
        /// In the order of their last use.
        var flows: [Flow] = []

        func end(_ flow: Flow) -> Double {
            flow.used + [5, self.flows.count > self.atMost / 2 ? 7 : 20, 20][flow.stage]
        }

        var nextEnd: Double? { self.flows.map(self.end).min() }

        mutating func insert(_ key: Int, at now: Double) -> Int? {
            var gone: Int?
            if let known = self.flows.firstIndex(where: { $0.key == key }) { gone = self.flows.remove(at: known).key }
            if self.flows.count == self.atMost {
                func first(_ stage: Int) -> Int? { self.flows.firstIndex { $0.stage == stage } }
                let asked = self.flows.filter { $0.stage == 0 }
                let goes = asked.count >= self.atMost / 2 || (asked.first.map { $0.used + 2 <= now } ?? false)
                let place = (goes ? first(0) : nil) ?? first(1) ?? first(2) ?? 0
                gone = self.flows.remove(at: place).key
            }
            self.flows.append(Flow(key: key, begun: now, used: now))
            return gone
        }

        mutating func use(_ key: Int, _ isAnswer: Bool, at now: Double) -> Bool {
            guard let place = self.flows.firstIndex(where: { $0.key == key }) else { return false }
            var flow = self.flows.remove(at: place)
            if flow.stage == 1, now > flow.begun + 2 || (isAnswer && flow.again) {
                flow.stage = 2
            } else if flow.stage == 1, !isAnswer {
                flow.again = true
            } else if flow.stage == 0, isAnswer {
                flow.stage = 1
            }
            flow.used = now
            self.flows.append(flow)
            return true
        }

        mutating func expire(at now: Double) -> [Int] {
            var gone: [Int] = []
            while let next = self.nextEnd, next <= now {
                let due = self.flows.filter { self.end($0) == next }
                // Of those that end at the same moment, the stages' order.
                guard let flow = due.min(by: { $0.stage < $1.stage }) else { break }
                self.flows.removeAll { $0.key == flow.key }
                gone.append(flow.key)
            }
            return gone
        }
    }
}
