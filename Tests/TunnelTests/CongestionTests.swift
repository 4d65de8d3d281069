import Foundation
import NIOCore
import Testing

@testable import Tunnel

/// What the controllers reach on links that are simulated exactly: ratios in simulated time.
@Suite(.serialized) struct CongestionTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var name: String
        var rate: Double
        var loss = 0.0
        /// In bandwidth-delay products of 40 ms.
        var queue: Double
        var jitter = 0.0
        var ackInterval = 0.0
        /// Of the link's rate less its loss, from 2 s on.
        var modelAtLeast: Double
        /// Seconds that 99 of 100 messages wait no longer than.
        var waitAtMost: Double = .infinity
        var testDescription: String { self.name }

        var link: FlowSimulation.Link {
            FlowSimulation.Link(
                rate: self.rate,
                queue: max(3_000, Int(self.rate / 8 * 0.04 * self.queue)),
                loss: self.loss,
                jitter: self.jitter,
                ackInterval: self.ackInterval
            )
        }
    }

    static let cases: [Case] = [
        Case(name: "300 Mbit/s, deep queue", rate: 300e6, queue: 4, modelAtLeast: 0.95, waitAtMost: 0.045),
        Case(name: "300 Mbit/s, shallow queue", rate: 300e6, queue: 0.25, modelAtLeast: 0.9, waitAtMost: 0.011),
        Case(
            name: "300 Mbit/s, 1 % lost, deep queue",
            rate: 300e6,
            loss: 0.01,
            queue: 4,
            modelAtLeast: 0.9,
            waitAtMost: 0.045
        ),
        Case(name: "300 Mbit/s, 1 % lost, shallow queue", rate: 300e6, loss: 0.01, queue: 0.25, modelAtLeast: 0.88),
        Case(name: "300 Mbit/s, 5 % lost, deep queue", rate: 300e6, loss: 0.05, queue: 4, modelAtLeast: 0.8),
        Case(name: "300 Mbit/s, 5 % lost, shallow queue", rate: 300e6, loss: 0.05, queue: 0.25, modelAtLeast: 0.75),
        Case(name: "5 Mbit/s, 1 % lost", rate: 5e6, loss: 0.01, queue: 2, modelAtLeast: 0.85),
        Case(name: "50 kbit/s", rate: 50e3, queue: 20, modelAtLeast: 0.6),
        Case(name: "1 Gbit/s", rate: 1e9, queue: 1, modelAtLeast: 0.9),
        Case(name: "100 Mbit/s, ACKs every 20 ms", rate: 100e6, queue: 1, ackInterval: 0.02, modelAtLeast: 0.85),
        Case(
            name: "10 Mbit/s, 2 % lost, 10 ms of jitter",
            rate: 10e6,
            loss: 0.02,
            queue: 1,
            jitter: 0.01,
            modelAtLeast: 0.75
        ),
        Case(name: "100 Mbit/s, 20 ms of jitter", rate: 100e6, queue: 1, jitter: 0.02, modelAtLeast: 0.75),
    ]

    @Test("the model keeps the line busy", arguments: cases)
    func model(_ one: Case) {
        let seconds = one.rate > 500e6 ? 4.0 : one.rate < 1e6 ? 30.0 : 8.0
        var simulation = FlowSimulation(one.link, [.init(algorithm: .model)])
        let outcome = simulation.run(seconds: seconds)[0]
        let share = outcome.goodput(2..<seconds) / (one.rate * (1 - one.loss))
        let wait = outcome.queueDelay(0.99)
        if ProcessInfo.processInfo.environment["CONGESTION_TABLE"] != nil {
            var other = FlowSimulation(one.link, [.init(algorithm: .cubic)])
            let cubic = other.run(seconds: seconds)[0]
            let theirs = cubic.goodput(2..<seconds) / (one.rate * (1 - one.loss))
            let columns = [
                share, wait * 1e3, Double(outcome.lost) / Double(outcome.sent) * 100, theirs,
                cubic.queueDelay(0.99) * 1e3,
            ]
            print("| \(one.name) |", columns.map { String(format: "%.2f", $0) }.joined(separator: " | "), "|")
        }
        #expect(share >= one.modelAtLeast)
        #expect(wait <= one.waitAtMost)
    }

    /// Two of ours and one of CUBIC's at one queue: none gets less than a third of its share.
    @Test(arguments: [[CongestionAlgorithm.model, .model, .cubic], [.model, .model], [.cubic, .cubic]])
    func fairness(_ algorithms: [CongestionAlgorithm]) {
        let link = FlowSimulation.Link(rate: 50e6, queue: 250_000)
        var simulation = FlowSimulation(
            link,
            algorithms.enumerated().map { .init(algorithm: $1, startsAt: Double($0)) }
        )
        let outcomes = simulation.run(seconds: 60)
        for outcome in outcomes {
            let share = outcome.goodput(10..<60) / (50e6 / Double(algorithms.count))
            if ProcessInfo.processInfo.environment["CONGESTION_TABLE"] != nil { print("fairness", algorithms, share) }
            #expect(share >= 1.0 / 3)
        }
    }

    /// What was measured before is forgotten after two cycles, whose rounds are slow while a queue stands.
    @Test(arguments: [(10e6, 100e6), (100e6, 10e6)])
    func changes(_ before: Double, _ after: Double) {
        let link = FlowSimulation.Link(rate: before, queue: 500_000, change: (5, after))
        var simulation = FlowSimulation(link, [.init(algorithm: .model)])
        let outcome = simulation.run(seconds: 30)[0]
        if ProcessInfo.processInfo.environment["CONGESTION_TABLE"] != nil {
            print("change", before, after, outcome.goodput(22..<30) / after, outcome.queueDelay(0.99, from: 22))
        }
        #expect(outcome.goodput(22..<30) >= 0.8 * after)
        #expect(outcome.queueDelay(0.99, from: 22) <= 0.12)
    }

    /// A peer's window stops the sender again and again, though more is in flight than the path holds: startup, which sends
    /// at nearly three times the rate, has to end all the same.
    @Test func startupEndsWhereThePeersWindowStopsIt() {
        let link = FlowSimulation.Link(rate: 300e6, queue: 1_875_000, loss: 0.01)
        var simulation = FlowSimulation(link, [.init(algorithm: .model, credit: 4_500_000)])
        let outcome = simulation.run(seconds: 8)[0]
        #expect(outcome.goodput(2..<8) >= 0.9 * 0.99 * 300e6)
        #expect(Double(outcome.lost) / Double(outcome.sent) < 0.03)
    }

    @Test func afterAPause() {
        var simulation = FlowSimulation(.init(), [.init(algorithm: .model, idle: 4...6)])
        let outcome = simulation.run(seconds: 8)[0]
        #expect(outcome.goodput(6.2..<8) >= 0.85 * 300e6)
    }
}
