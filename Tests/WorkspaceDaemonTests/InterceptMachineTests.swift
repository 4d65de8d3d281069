import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

@Suite struct InterceptMachineTests {
    typealias Machine = InterceptMachine

    static let up: Machine.Event = .replicas(["a": .acknowledged])
    static let asked: Machine.Event = .replicas(["a": .asked])
    static let down: Machine.Event = .replicas(["a": .down("connection refused")])

    /// What is done to a new intercept, one after the other: what each asks for, and the phase after it.
    struct Story: CustomTestStringConvertible, Sendable {
        var name: String
        var start: Machine
        var steps: [(event: Machine.Event, action: Machine.Action, phase: Phase, reason: String?)]

        var testDescription: String { self.name }
    }

    static let stories: [Story] = [
        Story(
            name: "start, probe, stop",
            start: .starting,
            steps: [
                (asked, .nothing, .pending, nil), (up, .nothing, .pending, nil), (.probed, .rest, .active, nil),
                (up, .nothing, .active, nil), (.stop, .leave, .stopping, nil), (up, .nothing, .stopping, nil),
                (.stop, .nothing, .stopping, nil),
            ]
        ),
        Story(
            name: "a start's own troubles are its errors",
            start: .starting,
            steps: [
                (.replicas([:]), .nothing, .pending, nil), (down, .nothing, .pending, nil),
                (.probed, .nothing, .pending, nil), (up, .rest, .active, nil),
            ]
        ),
        Story(
            name: "a tunnel is lost and comes back",
            start: .starting,
            steps: [
                (up, .nothing, .pending, nil), (.probed, .rest, .active, nil),
                (down, .watch, .degraded, "connection refused"), (down, .nothing, .degraded, "connection refused"),
                (asked, .tell, .degraded, "a sidecar is asked again"), (up, .rest, .active, nil),
            ]
        ),
        Story(
            name: "a login expires, and works again",
            start: .starting,
            steps: [
                (up, .nothing, .pending, nil), (.probed, .rest, .active, nil), (.blind(nil), .nothing, .active, nil),
                (.blind("log in again"), .watch, .degraded, "log in again"),
                (.blind("log in again"), .nothing, .degraded, "log in again"),
                (up, .nothing, .degraded, "log in again"),
                (down, .tell, .degraded, "connection refused"), (up, .tell, .degraded, "log in again"),
                (.blind(nil), .rest, .active, nil),
            ]
        ),
        Story(
            name: "one of two",
            start: .resuming,
            steps: [
                (.replicas(["a": .acknowledged, "b": .acknowledged]), .rest, .active, nil),
                (.replicas(["a": .acknowledged, "b": .down("no answer")]), .watch, .degraded, "b: no answer"),
                (
                    .replicas(["a": .down("no answer"), "b": .down("no answer")]), .tell, .degraded,
                    "a: no answer, and 1 more of 2 sidecars"
                ),
                (.replicas(["b": .acknowledged]), .rest, .active, nil),
                (.replicas([:]), .watch, .degraded, "no sidecar is there"),
            ]
        ),
        Story(
            name: "another list of ports is asked for while all is well",
            start: .resuming,
            steps: [
                (up, .rest, .active, nil), (.raising, .nothing, .active, nil), (asked, .nothing, .active, nil),
                (up, .nothing, .active, nil), (.raised, .nothing, .active, nil),
                (asked, .watch, .degraded, "a sidecar is asked again"),
            ]
        ),
        Story(
            name: "and meanwhile a tunnel is lost",
            start: .resuming,
            steps: [
                (up, .rest, .active, nil), (.raising, .nothing, .active, nil),
                (down, .watch, .degraded, "connection refused"), (asked, .rest, .active, nil),
                (.raised, .watch, .degraded, "a sidecar is asked again"), (up, .rest, .active, nil),
            ]
        ),
        Story(
            name: "taken over",
            start: .resuming,
            steps: [
                (up, .rest, .active, nil), (.takenOver(by: "grace@desk"), .leave, .failed, "taken over by grace@desk"),
                (up, .nothing, .failed, "taken over by grace@desk"),
                (.turnedAway("no longer"), .nothing, .failed, "taken over by grace@desk"),
                (.stop, .leave, .stopping, nil),
            ]
        ),
        Story(
            name: "turned away while it is down",
            start: .resuming,
            steps: [
                (down, .tell, .degraded, "connection refused"),
                (.turnedAway("no longer accepted"), .leave, .failed, "no longer accepted"),
            ]
        ),
        Story(
            name: "found after a crash",
            start: .abandoned,
            steps: [
                (up, .nothing, .degraded, Machine.foundAfterCrash),
                (.probed, .nothing, .degraded, Machine.foundAfterCrash),
                (.takenOver(by: "x"), .nothing, .degraded, Machine.foundAfterCrash), (.stop, .leave, .stopping, nil),
            ]
        ),
    ]

    @Test(arguments: stories) func `what follows`(story: Story) {
        var machine = story.start
        for (number, step) in story.steps.enumerated() {
            #expect(machine.handle(step.event) == step.action, "step \(number)")
            #expect(machine.phase == step.phase, "step \(number)")
            #expect(machine.reason == step.reason, "step \(number)")
        }
    }

    /// Whatever happens in whatever order: over is over, Active means that all are there, and a reason is given.
    @Test(arguments: 0..<200) func `whatever happens`(seed: UInt64) {
        var random = Seeded(seed)
        let replicas: [Machine.Replica] = [.down("x"), .asked, .acknowledged]
        var machine = [Machine.starting, .resuming, .abandoned].randomElement(using: &random) ?? .starting
        var known: [String: Machine.Replica] = [:]
        var isRaising = false
        for _ in 0..<50 {
            let before = machine
            let event: Machine.Event
            switch Int.random(in: 0..<12, using: &random) {
            case 0: event = .probed
            case 1: event = .raising
            case 2: event = .raised
            case 3: event = .takenOver(by: "x")
            case 4: event = .turnedAway("y")
            case 5: event = .stop
            default:
                known = [:]
                for name in ["a", "b"].prefix(Int.random(in: 0...2, using: &random)) {
                    known[name] = replicas.randomElement(using: &random)
                }
                event = .replicas(known)
            }
            let action = machine.handle(event)
            if !before.isOver, event == .raising { isRaising = true }
            if !before.isOver, event == .raised { isRaising = false }
            if before.phase == .stopping { #expect(machine == before) }
            if before.isOver, event != .stop { #expect(machine == before && action == .nothing) }
            if machine.phase == .active, case .replicas = event {
                #expect(!known.isEmpty && known.values.allSatisfy { $0 == .acknowledged || isRaising && $0 == .asked })
            }
            if machine.phase == .degraded || machine.phase == .failed { #expect(machine.reason != nil) }
            if machine.phase == .active { #expect(machine.reason == nil) }
            if action == .nothing { #expect(machine.phase == before.phase && machine.reason == before.reason) }
            if machine.phase != before.phase { #expect(action != .tell) }
        }
    }
}
