import Carriers
import Environments
import HostSupport
import InterceptModel
import Logging
import NIOCore
import Testing
import WorkspaceAPI

@testable import WorkspaceAgent
@testable import WorkspaceDaemon

/// A daemon against real sidecars, in one process.
@Suite(.timeLimit(.minutes(10))) struct DaemonTests {
    @Test func `from start to stop`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        #expect(await ask(stage.port()) == "original")

        let (started, steps) = try await workspace.start((8_080, mine.port))
        #expect(started.phase == .active)
        #expect(started.missingServers == [])
        #expect(steps.map(\.name) == ["sidecarRunning", "tunnelUp", "portMapped"])
        #expect(steps[1].sidecars.first?.phase == .active)
        #expect(stage.records.first?.ports == [.init(service: 8_080, target: "127.0.0.1:\(mine.port)")])
        for _ in 0..<3 { #expect(await ask(stage.port()) == "workspace") }
        #expect(try StoredIntercepts.read(workspace.home.intercepts).intercepts.map(\.request.service) == ["api"])

        let (stopped, last) = try await workspace.stop()
        #expect(last.map(\.name) == ["originalAnswers", "drained"])
        if case .drained(_, let reset)? = last.last?.event { #expect(reset == 0) } else { Issue.record("\(last)") }
        #expect((stopped.total, stopped.passed, stopped.open) == (3, 0, 0))
        #expect(await ask(stage.port()) == "original")
        #expect(stage.records == [])
        #expect(await workspace.status == nil)
        #expect(try StoredIntercepts.read(workspace.home.intercepts).intercepts == [])
    }

    @Test func `nothing listens yet, then it does, then no more`() async throws {
        let stage = try await Stage()
        let place = try HeldPort()
        let workspace = try await Workspace(stage)
        let (started, steps) = try await workspace.start((8_080, place.port))
        #expect(started.phase == .active)
        #expect(steps.map(\.name) == ["sidecarRunning", "tunnelUp", "portMapped", "localServerMissing"])
        #expect(started.missingServers == [ServicePort(8_080)])
        #expect(await ask(stage.port()) == "original")
        let mine = try await NamedServer("workspace", port: place.port)
        #expect(await eventually { await workspace.status?.missingServers == [] })
        // The sidecar is asked for the port again, a moment later.
        #expect(await eventually { await ask(stage.port()) == "workspace" })
        await mine.close()
        let answer = await ask(stage.port())
        #expect(answer == "original")
        #expect(await eventually { await workspace.status?.missingServers == [ServicePort(8_080)] })
        try await workspace.stop()
        withExtendedLifetime(place) {}
    }

    @Test func `the same again is nothing new, other ports are`() async throws {
        let stage = try await Stage()
        let one = try await NamedServer("one")
        let two = try await NamedServer("two")
        let workspace = try await Workspace(stage)
        #expect(try await workspace.start((8_080, one.port)).0.generation == 1)
        #expect(try await workspace.start((8_080, one.port)).0.generation == 1)
        let (raised, steps) = try await workspace.start((8_080, two.port))
        #expect(raised.generation == 2)
        #expect(raised.phase == .active)
        #expect(steps.map(\.name) == ["sidecarRunning", "tunnelUp", "portMapped"])
        #expect(await ask(stage.port()) == "two")
        #expect(stage.records.first?.ports.first?.target == "127.0.0.1:\(two.port)")

        // A port that the sidecar doesn't have: the list before stays.
        let failure = await #expect(throws: Problem.self) {
            try await workspace.start((8_080, one.port), (9_999, one.port))
        }
        #expect(failure?.description.contains("port 9999") == true)
        #expect(await workspace.phase == .active)
        #expect(await workspace.status?.mappings.map(\.target.port) == [two.port])
        #expect(await ask(stage.port()) == "two")
        try await workspace.stop()
        #expect(await ask(stage.port()) == "original")
    }

    @Test func `a start that fails leaves nothing`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage)
        let failure = await #expect(throws: Problem.self) { try await workspace.start((9_999, 3_000)) }
        #expect(failure?.description.contains("port 9999") == true)
        #expect(stage.records == [])
        #expect(await workspace.status == nil)
        stage.setUp(false)
        let down = await #expect(throws: Problem.self) { try await workspace.start((8_080, 3_000)) }
        #expect(down?.code == .notUp)
        #expect(await workspace.status == nil)
    }

    @Test(arguments: [0, 1, 2, 3, 5, 8, 12, 20, 40]) func `a start that nobody waits for leaves nothing`(
        delay: Int
    ) async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        let start = Task { try await workspace.start((8_080, mine.port)) }
        try await Task.sleep(for: .milliseconds(delay))
        start.cancel()
        if case .success = await start.result {
            #expect(await workspace.phase == .active)
            try await workspace.stop()
        }
        #expect(await workspace.status == nil)
        #expect(stage.records == [])
        #expect(await ask(stage.port()) == "original")
    }

    /// The stop is asked for at the start's first step.
    @Test(arguments: HoldingKind.allCases) @DaemonLoop
    func `a start that one's own stop ended says so`(kind: HoldingKind) async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        let start = Waiting()
        start.task = Task {
            try await workspace.daemon.start(
                try stage.request([(8_080, mine.port)], kind: kind),
                cancel: { start.task?.cancel() },
                { step in
                    guard step.event == .sidecarRunning else { return }
                    start.stop = Task { try await workspace.stop() }
                }
            )
        }
        let failure = await #expect(throws: Problem.self) { try await start.task?.value }
        #expect(failure?.description.contains("kl intercept stop") == true)
        #expect(failure?.description.contains("kl intercept start api") == true)
        let ends = [kind == .mirror ? "copiesEnded" : "originalAnswers"]
        #expect(try await start.stop?.value.1.map(\.name) == ends)
        #expect(workspace.status == nil)
        #expect(stage.records == [])
    }

    @DaemonLoop private final class Waiting {
        var task: Task<InterceptStatus, any Error>?
        var stop: Task<(InterceptStatus, [Step]), any Error>?
    }

    @Test func `stop ends a start that is under way`() async throws {
        let stage = try await Stage()
        // Nobody answers there: the start waits.
        try await stage.endSidecar("api-1")
        let workspace = try await Workspace(stage)
        await #expect(throws: Problem.self) { try await workspace.start((8_080, 3_000)) }
        #expect(await workspace.status == nil)
        #expect(stage.records == [])
    }

    @Test func `a sidecar that was restarted is found under its new key`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, mine.port))
        #expect(await ask(stage.port()) == "workspace")
        let before = await workspace.status?.sidecars.first?.publicKey
        try await stage.endSidecar("api-1")
        #expect(await eventually { await workspace.phase == .degraded })
        #expect(await workspace.status?.reason != nil)
        try await stage.startSidecar("api-1")
        #expect(await eventually { await workspace.phase == .active })
        #expect(await workspace.status?.sidecars.first?.publicKey != before)
        #expect(await ask(stage.port()) == "workspace")
        // What the first one counted isn't lost.
        #expect(try await workspace.stop().0.total >= 1)
    }

    @Test func `a replica that comes later is intercepted too`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, mine.port))
        try await stage.startSidecar("api-2")
        #expect(await eventuallyLong { await ask(stage.port(of: "api-2")) == "workspace" })
        #expect(await workspace.status?.sidecars.map(\.name) == ["api-1", "api-2"])
        try await workspace.stop()
        #expect(await ask(stage.port(of: "api-2")) == "original")
        #expect(await ask(stage.port()) == "original")
    }

    private func eventuallyLong(_ condition: @Sendable () async -> Bool) async -> Bool {
        for _ in 0..<3 where await eventually(condition) { return true }
        return false
    }

    @Test func `stop although the sidecar, or the whole environment, is gone`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, 3_000))
        try await stage.endSidecar("api-1")
        let (_, steps) = try await workspace.stop()
        #expect(steps.map(\.name) == ["nothingAnswers", "drained"])
        #expect(steps.first?.event == .nothingAnswers(because: "its sidecar ended"))
        #expect(stage.records == [])

        try await stage.startSidecar("api-1")
        try await workspace.start((8_080, 3_000))
        try await stage.endSidecar("api-1")
        stage.setUp(false)
        _ = try? await workspace.stop()
        #expect(await eventually { await workspace.status == nil })
    }

    /// Its end is seen between a stop's being asked for and its first step.
    @Test @DaemonLoop func `what the environment's end comes before has nothing to wait for`() async throws {
        let stage = try await Stage()
        let folder = try TemporaryFolder()
        let intercept = Intercept(
            try stage.request([(8_080, 3_000)]),
            targets: try LocalTargets(stage.request([(8_080, 3_000)])),
            environment: stage,
            identity: try WorkspaceIdentity(home: WorkspaceHome(folder: "\(folder.path)/home")),
            log: Logger(label: "intercept") { _ in SwiftLogNoOpLogHandler() }
        )
        try await intercept.begin { _ in }
        #expect(intercept.machine.phase == .active)
        stage.setUp(false)
        intercept.dispose()
        #expect(!intercept.isLive)
        let request = intercept.request
        let failure = await #expect(throws: Problem.self) {
            try await intercept.adjust(to: request, targets: LocalTargets(request)) { _ in }
        }
        #expect(failure?.description.hasPrefix("the environment has ended") == true)
        var steps: [Step] = []
        try await intercept.stop(drainSeconds: nil) { steps.append($0) }
        #expect(steps.map(\.name) == ["nothingAnswers", "drained"])
    }

    @Test func `somebody else has it`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("ada")
        let theirs = try await NamedServer("grace")
        let ada = try await Workspace(stage)
        let grace = try await Workspace(stage)
        try await ada.start((8_080, mine.port))
        let failure = await #expect(throws: Problem.self) { try await grace.start((8_080, theirs.port)) }
        #expect(failure?.code == .busy)
        #expect(
            failure?.description.wholeMatch(
                of:
                    /port 8080 of 'api' is intercepted by \S+@\S+ \S+ since \d\d:\d\d\. Ask them to stop it, or take it over with --force\./
            ) != nil
        )
        #expect(await ask(stage.port()) == "ada")
        let nothing = await #expect(throws: Problem.self) { try await grace.stop() }
        #expect(nothing?.code == .noSuchIntercept)

        try await grace.start((8_080, theirs.port), force: true)
        #expect(await ask(stage.port()) == "grace")
        #expect(await eventually { await ada.phase == .failed })
        #expect(await ada.status?.reason?.hasPrefix("taken over by ") == true)
        #expect(stage.records.count == 1)
        try await ada.stop()
        #expect(stage.records.count == 1)
        #expect(await ask(stage.port()) == "grace")
        try await grace.stop()
        #expect(await ask(stage.port()) == "original")
    }

    @Test func `one of two that start at once`() async throws {
        let stage = try await Stage()
        let ada = try await Workspace(stage)
        let grace = try await Workspace(stage)
        for _ in 0..<10 {
            let starts = [ada, grace].map { one in Task { try await one.start((8_080, 3_000)).0.phase } }
            var results: [Result<Phase, any Error>] = []
            for start in starts { results.append(await start.result) }
            #expect(results.filter { (try? $0.get()) == .active }.count == 1)
            for workspace in [ada, grace] { _ = try? await workspace.stop() }
            #expect(stage.records == [])
        }
    }

    /// A daemon lives for days: an intercept that is over leaves no memory behind.
    @Test func `nothing is kept of an intercept that is over`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        let kept = try await Self.remnants(of: workspace, stage, mine.port)
        #expect(await eventually { await kept.isEmpty })
    }

    @DaemonLoop
    final class Remnants {
        weak var intercept: Intercept?
        weak var replica: Replica?
        weak var agent: WorkspaceAgent?
        weak var client: TunnelClient?

        var isEmpty: Bool {
            self.intercept == nil && self.replica == nil && self.agent == nil && self.client == nil
        }
    }

    @DaemonLoop
    private static func remnants(of workspace: Workspace, _ stage: Stage, _ port: UInt16) async throws -> Remnants {
        let remnants = Remnants()
        let request = try stage.request([(8_080, port)])
        let intercept = Intercept(
            request,
            targets: try LocalTargets(request),
            environment: stage,
            identity: workspace.daemon.identity,
            log: workspace.daemon.log
        )
        try await intercept.begin { _ in }
        _ = await ask(stage.port())
        remnants.intercept = intercept
        remnants.replica = intercept.replicas.first
        remnants.agent = intercept.replicas.first?.agent
        remnants.client = intercept.replicas.first?.agent.client
        #expect(remnants.client != nil)
        try await intercept.stop(drainSeconds: nil) { _ in }
        intercept.dispose()
        return remnants
    }

    // MARK: Daemons that come after one another

    @Test func `an intercept goes from one daemon to the next`() async throws {
        let stage = try await Stage()
        let folder = try TemporaryFolder()
        let mine = try await NamedServer("workspace")
        let first = try await Workspace(stage, in: folder)
        try await first.start((8_080, mine.port))
        await first.daemon.handOver()
        await first.daemon.end()
        #expect(stage.records.count == 1)
        #expect(await ask(stage.port()) == "original")
        let second = try await Workspace(stage, in: folder)
        #expect(await eventually { await second.phase == .active })
        #expect(await ask(stage.port()) == "workspace")
        #expect(await eventually { (try? StoredIntercepts.read(second.home.intercepts))?.areHandedOver == false })
        try await second.stop()
        #expect(await ask(stage.port()) == "original")
        #expect(stage.records == [])
    }

    @Test(arguments: [true, false]) func `what a daemon held that was killed`(isStartedAgain: Bool) async throws {
        let stage = try await Stage()
        let folder = try TemporaryFolder()
        let mine = try await NamedServer("workspace")
        do {
            // Not ended: its tunnels stand, and nobody looks after them.
            let first = try await Workspace(stage, in: folder)
            try await first.start((8_080, mine.port))
            await Self.keep(first)
        }
        let second = try await Workspace(stage, in: folder)
        #expect(await second.phase == .degraded)
        #expect(await second.status?.reason == InterceptMachine.foundAfterCrash)
        if isStartedAgain {
            try await second.start((8_080, mine.port))
            #expect(await second.phase == .active)
            #expect(await ask(stage.port()) == "workspace")
        }
        try await second.stop()
        #expect(await ask(stage.port()) == "original")
        #expect(stage.records == [])
        #expect(await second.status == nil)
    }

    @Test func `a claim of ours that no daemon knows`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage)
        let member = await workspace.daemon.identity.member
        let record = InterceptRecord(service: "api", holder: member, since: "2026-03-01T09:30:00Z", ports: [])
        _ = try await stage.claim(record, options: SidecarOptions()).take(force: false)
        let (_, steps) = try await workspace.stop()
        #expect(steps.map(\.name) == ["originalAnswers", "drained"])
        #expect(stage.records == [])
    }

    @Test func `told to end, it gives everything back`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, mine.port))
        await workspace.daemon.shutDown()
        #expect(stage.records == [])
        #expect(await ask(stage.port()) == "original")
        #expect(try StoredIntercepts.read(workspace.home.intercepts).intercepts == [])
    }

    @Test func `the environment ends under it`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, 3_000))
        stage.setUp(false)
        try await stage.endSidecar("api-1")
        #expect(await eventually { await workspace.status == nil })
    }

    @DaemonLoop private static var kept: [Workspace] = []
    @DaemonLoop private static func keep(_ workspace: Workspace) { self.kept.append(workspace) }

    // MARK: Over the socket

    @Test func `who connects is greeted, and can follow`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage, version: "7")
        try await workspace.start((8_080, 3_000))
        let socket = workspace.home.daemonSocket
        let heard = try await Self.off {
            let client = try #require(try JSONLinesClient(path: socket))
            var heard: [DaemonReply] = []
            func next() throws {
                if case .message(let reply) = try client.receive(DaemonReply.self, within: 60_000) {
                    heard.append(reply)
                }
            }
            try next()
            try client.send(DaemonRequest.status)
            try next()
            try client.send(DaemonRequest.follow(service: "nobody"))
            try next()
            try client.send(DaemonRequest.follow(service: "api"))
            try next()
            return heard
        }
        guard heard.count == 4, case .hello(version: "7", _) = heard[0], case .intercepts(let list) = heard[1],
            case .failed(let failure) = heard[2], case .changed(let status) = heard[3]
        else {
            Issue.record("\(heard)")
            return
        }
        #expect(list.map(\.service) == ["api"])
        #expect(failure.code == .noSuchIntercept)
        #expect(status.phase == .active)
        try await workspace.stop()
    }

    @Test func `at most so many connections`() async throws {
        let workspace = try await Workspace(try await Stage())
        let socket = workspace.home.daemonSocket
        let (answered, left) = try await Self.off {
            var clients: [JSONLinesClient] = []
            for _ in 0..<(64 + 5) {
                let client = try #require(try JSONLinesClient(path: socket))
                guard case .message(.hello) = try client.receive(DaemonReply.self, within: 60_000) else { continue }
                try client.send(DaemonRequest.status)
                guard case .message = try client.receive(DaemonReply.self, within: 60_000) else { continue }
                clients.append(client)
            }
            // Those that asked first have given way to the last.
            let left = try clients.filter { client in
                if case .timedOut = try client.receive(DaemonReply.self, within: 100) { return true }
                return false
            }
            return (clients.count, left.count)
        }
        #expect(answered == 64 + 5)
        #expect(left == 64)
    }

    @Test(arguments: [(64, 16), (16, 4), (1_024, 64), (1_048_576, 64), (0, 4)])
    func `clients may have a quarter of the descriptors`(_ descriptors: Int, _ clients: Int) {
        #expect(Daemon.clientsAtMost(ofDescriptors: descriptors) == clients)
    }

    @Test func `a start over the socket that is hung up on`() async throws {
        let stage = try await Stage()
        let workspace = try await Workspace(stage)
        let socket = workspace.home.daemonSocket
        let request = try stage.request([(8_080, 3_000)])
        let ended = try await Self.off {
            let client = try #require(try JSONLinesClient(path: socket))
            _ = try client.receive(DaemonReply.self, within: 60_000)
            try client.send(DaemonRequest.start(request))
            client.endSending()
            while true {
                if case .ended = try client.receive(DaemonReply.self, within: 60_000) { return true }
            }
        }
        #expect(ended)
        #expect(await workspace.status == nil)
        #expect(stage.records == [])
    }

    /// On a thread of its own: these wait.
    private static func off<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await NIOSingletons.posixBlockingThreadPool.runIfActive(body)
    }
}
