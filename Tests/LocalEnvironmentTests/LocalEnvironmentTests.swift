import Environments
import Foundation
import HostSupport
import InterceptModel
import NIOCore
import NIOPosix
import SidecarInterface
import TestSupport
import Testing

@testable import LocalEnvironment

struct LocalEnvironmentTests {
    let room: Room
    let folder: StateFolder
    let environment: LocalEnvironment
    let own: ProcessIdentity
    /// A number that is never a process of ours, started at no time.
    var dead: ProcessIdentity {
        var identity = self.own
        identity.startTime = 1
        return identity
    }

    init() throws {
        self.room = try Room()
        let file = try self.room.file("my app/compose.yaml", "name: demo\nservices: {api: {command: x}}")
        self.folder = try StateFolder.make(besideFile: file)
        let reference = EnvironmentReference(kind: .local, name: "demo", location: file)
        self.environment = LocalEnvironment(reference, patience: .milliseconds(500))
        self.own = try #require(ProcessIdentity.own)
    }

    static let location = SidecarLocation(
        name: "api-1",
        publicKey: RecordFileTests.key(500),
        tcp: "127.0.0.1:5",
        listens: ["127.0.0.1:8080"]
    )

    func state(supervisor: ProcessIdentity, service: ProcessIdentity, sidecar: ProcessIdentity) -> EnvironmentState {
        var replica = EnvironmentState.SidecarState(name: "api-1", state: .ready, process: sidecar)
        replica.location = Self.location
        let api = Service(name: "api-server", state: .running, ports: [Service.Port(published: 8080, target: 21090)])
        let services = [EnvironmentState.ServiceState(service: api, process: service, sidecars: [replica])]
        return EnvironmentState(
            name: "demo",
            file: self.environment.reference.location,
            supervisor: supervisor,
            since: "2026-11-22T21:40:03Z",
            services: services
        )
    }

    func claim(_ service: String, by index: Int) -> any ServiceClaim {
        self.environment.claim(RecordFileTests.record(service, by: index), options: SidecarOptions())
    }

    var notUp: Problem {
        Problem(
            .notUp,
            "environment 'demo' isn't up",
            "Bring it up: kl env up --file '\(self.environment.reference.location)'"
        )
    }

    @Test func notUpAtAll() async throws {
        await #expect(throws: self.notUp) { try await self.environment.services() }
        try self.state(supervisor: self.dead, service: self.dead, sidecar: self.dead).write(to: self.folder)
        await #expect(throws: self.notUp) { try await self.environment.services() }
        await #expect(throws: self.notUp) { try await self.environment.sidecars(of: "api-server") }
        await #expect(throws: self.notUp) {
            try await self.claim("api-server", by: 1).take(force: false)
        }
        _ = try RecordFile(in: self.folder).claim(RecordFileTests.record("api-server", by: 1), force: false)
        #expect(try await self.environment.intercepts().map(\.isDiverting) == [false])
        try await self.claim("api-server", by: 1).release()
        #expect(try await self.environment.intercepts() == [])
    }

    @Test func up() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        state.services[0].sidecars[0].divertingTo = RecordFileTests.key(1)
        state.services[0].sidecars[0].open = 3
        state.services[0].sidecars[0].total = 128
        state.services[0].sidecars[0].passed = 2
        try state.write(to: self.folder)
        #expect(try EnvironmentState.read(from: self.folder) == state)
        #expect(try await self.environment.services() == state.services.map(\.service))
        #expect(try await self.environment.sidecars(of: "api-server") == [Self.location])
        await #expect(
            throws: Problem(
                .noSuchService,
                "service 'api-sever' isn't in environment 'demo'. Did you mean 'api-server'? (kl env status lists them)"
            )
        ) { try await self.environment.sidecars(of: "api-sever") }
        var record = RecordFileTests.record("api-server", by: 1)
        #expect(try await self.environment.claim(record, options: SidecarOptions()).take(force: false) == .claimed)
        record.lastSeen = try #require(try RecordFile(in: self.folder).read().intercepts.first?.lastSeen)
        record.isDiverting = true
        record.connections = InterceptRecord.Connections(open: 3, total: 128, passed: 2)
        #expect(
            try await self.claim("api-server", by: 2).take(force: false)
                == .heldBy(record)
        )
        await #expect(throws: Problem.self) {
            try await self.claim("zzz", by: 2).take(force: false)
        }
        #expect(try await self.environment.intercepts() == [record])
    }

    /// Of several replicas, the one that hides clients counts.
    @Test func whatTheOriginalSees() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        _ = try RecordFile(in: self.folder).claim(RecordFileTests.record("api-server", by: 1), force: false)
        let hidden = SeenAddress("sidecar", because: "a rule is in the way", from: "10.0.0.2")
        for (first, second, seen) in [
            (nil, nil, nil), (SeenAddress.clients, nil, SeenAddress.clients), (.clients, hidden, hidden),
            (.sidecars(because: nil), .clients, .sidecars(because: nil)), (.sidecars(because: nil), hidden, hidden),
        ] as [(SeenAddress?, SeenAddress?, SeenAddress?)] {
            var other = state.services[0].sidecars[0]
            other.location?.originalSees = second
            state.services[0].sidecars[0].location?.originalSees = first
            state.services[0].sidecars = [state.services[0].sidecars[0], other]
            try state.write(to: self.folder)
            #expect(try await self.environment.intercepts().map(\.originalSees) == [seen])
            #expect(try await self.environment.sidecars(of: "api-server").map(\.originalSees) == [first, second])
        }
    }

    /// What is true is what the sidecars say.
    @Test func holders() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        func holder(_ number: Int, _ kind: HoldingKind, isServed: Bool) -> SidecarReport.Holder {
            let member = RecordFileTests.member(number)
            var holder = SidecarReport.Holder(
                key: member.publicKey,
                workspace: member.label,
                kind: kind,
                ports: [ServicePort(8_080), ServicePort(53, .udp)],
                since: "2026-11-22T21:40:03Z"
            )
            (holder.open, holder.total, holder.passed, holder.behind) = (1, 2, 3, 4)
            holder.isServed = isServed
            holder.lastSeen = "2026-11-22T21:41:00Z"
            return holder
        }
        state.services[0].sidecars[0].divertingTo = RecordFileTests.key(1)
        state.services[0].sidecars[0].holders = [
            holder(1, .intercept, isServed: true), holder(2, .mirror, isServed: false),
            // Not on record, and one of them not served either.
            holder(3, .mirror, isServed: true), holder(4, .mirror, isServed: false),
        ]
        try state.write(to: self.folder)
        #expect(try EnvironmentState.read(from: self.folder) == state)
        let file = RecordFile(in: self.folder)
        var ada = RecordFileTests.record("api-server", by: 1, ports: [8_080])
        var bob = RecordFileTests.mirror("api-server", by: 2, ports: [8_080])
        var gone = RecordFileTests.record("api-server", by: 5, ports: [9_090])
        for record in [ada, bob, gone] { _ = try file.claim(record, force: false) }
        (ada.isDiverting, bob.isDiverting, gone.isDiverting) = (true, false, false)
        ada.lastSeen = "2026-11-22T21:41:00Z"
        bob.lastSeen = ada.lastSeen
        ada.connections = .init(open: 1, total: 2, passed: 3)
        bob.connections = .init(open: 1, total: 2, passed: 3, behind: 4)
        gone.connections = .init(open: 0, total: 0, passed: 0)
        var eve = InterceptRecord(
            service: "api-server",
            holder: RecordFileTests.member(3),
            since: "2026-11-22T21:40:03Z",
            ports: [.init(service: 53, transport: .udp, target: ""), .init(service: 8_080, target: "")],
            kind: .mirror
        )
        eve.isDiverting = true
        eve.lastSeen = ada.lastSeen
        eve.connections = bob.connections
        #expect(try await self.environment.intercepts() == [ada, bob, gone, eve])
    }

    /// One of our ports is another's: only then it is lost.
    @Test func reconcilingBesideOthers() async throws {
        try self.state(supervisor: self.own, service: self.own, sidecar: self.own).write(to: self.folder)
        let file = RecordFile(in: self.folder)
        let own = RecordFileTests.record("api-server", by: 1, ports: [80])
        let claim = self.environment.claim(own, options: SidecarOptions())
        #expect(try await claim.take(force: false) == .claimed)
        _ = try file.claim(RecordFileTests.record("api-server", by: 2, ports: [81]), force: false)
        _ = try file.claim(RecordFileTests.mirror("api-server", by: 3, ports: [80]), force: false)
        #expect(try await claim.reconcile(.incomplete) == .sidecars([Self.location]))
        let other = RecordFileTests.record("api-server", by: 4, ports: [80])
        _ = try file.claim(other, force: true)
        #expect(try await claim.reconcile(.incomplete) == .lost(to: other))
        // It removes its own entry only.
        try await claim.release()
        #expect(try file.read().intercepts.count == 3)
        try file.release(service: "api-server", publicKey: other.holder.publicKey)
        #expect(try await claim.reconcile(.incomplete) == .ended)
    }

    @Test func reconciling() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        try state.write(to: self.folder)
        let claim = self.claim("api-server", by: 1)
        #expect(try await claim.take(force: false) == .claimed)
        #expect(try await claim.reconcile(.incomplete) == .sidecars([Self.location]))
        let other = RecordFileTests.record("api-server", by: 2)
        _ = try RecordFile(in: self.folder).claim(other, force: true)
        // Where the sidecars say that all is well, they know better who has the service.
        #expect(try await claim.reconcile(.routine) == .sidecars([Self.location]))
        guard case .lost(let record) = try await claim.reconcile(.incomplete) else { return #expect(Bool(false)) }
        #expect(record.holder == other.holder)
        try await self.claim("api-server", by: 2).release()
        #expect(try await claim.reconcile(.doubtful) == .ended)
        state.services[0].sidecars[0].state = .restarting
        try state.write(to: self.folder)
        #expect(try await claim.reconcile(.routine) == .restarting)
        #expect(try await claim.gone(of: [Self.location]) == [])
    }

    @Test func withoutASupervisor() async throws {
        var state = self.state(supervisor: self.dead, service: self.own, sidecar: self.own)
        try state.write(to: self.folder)
        #expect(try await self.environment.services().map(\.state) == [.running])
        #expect(try await self.environment.sidecars(of: "api-server") == [Self.location])
        let member = RecordFileTests.member(1)
        await #expect(
            throws: Problem(
                .failed,
                "environment 'demo' has no supervisor: your key is new to it, and nobody can let it in",
                "Start one, which leaves what runs alone: kl env up --file '\(self.environment.reference.location)'"
            )
        ) { try await self.claim("api-server", by: 1).sidecars() }
        #expect(try RecordFile(in: self.folder).read().members == [])
        try RecordFile(in: self.folder).add(member)
        #expect(try await self.claim("api-server", by: 1).sidecars() == [Self.location])
        state.services[0].sidecars[0].process = self.dead
        try state.write(to: self.folder)
        let services = try await self.environment.services()
        #expect(services.map(\.state) == [.stopped])
        #expect(
            services.map(\.reason) == ["its sidecar ended, and no supervisor runs to start another; kl env up does"]
        )
        #expect(try await self.environment.sidecars(of: "api-server") == [])
    }

    @Test func someoneElsesFolder() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        state.file = "/other/compose.yml"
        try state.write(to: self.folder)
        await #expect(
            throws: Problem(
                .notUp,
                "environment 'demo' isn't up, and \(self.folder.path) is in use by /other/compose.yml",
                "End that one first: kl env down --file /other/compose.yml"
            )
        ) { try await self.environment.services() }
    }

    @Test func brokenState() async throws {
        try SmallFile.replace(self.folder.state, with: Array("{\"version\":1}".utf8))
        await #expect(throws: Problem.self) { try await self.environment.services() }
        try SmallFile.replace(self.folder.state, with: Array("{\"version\":9}".utf8))
        await #expect {
            try await self.environment.services()
        } throws: {
            "\($0)".contains("was written by another version of kl")
        }
    }

    @Test func newMembersAreIntroduced() async throws {
        try self.state(supervisor: self.own, service: self.own, sidecar: self.own).write(to: self.folder)
        let supervisor = try await Supervisor(in: self.folder, answers: .refreshed)
        let member = RecordFileTests.member(1)
        #expect(try await self.claim("api-server", by: 1).sidecars() == [Self.location])
        #expect(try RecordFile(in: self.folder).read().members == [member])
        #expect(try await supervisor.requests() == [.status, .refresh])
        try await supervisor.close()
    }

    @Test func aSupervisorThatFails() async throws {
        try self.state(supervisor: self.own, service: self.own, sidecar: self.own).write(to: self.folder)
        for (answer, reason) in [(SupervisorReply.failed("no"), "no"), (.progress("…"), "it didn't answer for 0 s")] {
            let supervisor = try await Supervisor(in: self.folder, answers: answer)
            await #expect(
                throws: Problem(
                    .failed,
                    "the supervisor of environment 'demo' hasn't let your key in: \(reason)",
                    "Try again; if that doesn't help, look into \(self.folder.supervisorLog)"
                )
            ) { try await self.claim("api-server", by: 1).sidecars() }
            #expect(try RecordFile(in: self.folder).read().members == [])
            try await supervisor.close()
        }
    }

    @Test func sidecarsAreWaitedFor() async throws {
        let ready = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        var late = ready
        late.services[0].sidecars[0].state = .restarting
        late.services[0].sidecars[0].reason = "exited with code 1"
        try late.write(to: self.folder)
        let member = RecordFileTests.member(1)
        try RecordFile(in: self.folder).add(member)
        await #expect(
            throws: Problem(
                .failed,
                "the sidecar 'api-1' isn't ready: exited with code 1",
                "Look into \(self.folder.logs)/api-1.sidecar.log"
            )
        ) { try await self.claim("api-server", by: 1).sidecars() }
        // Other tests may keep the machine busy for longer than the first one waits.
        let patient = LocalEnvironment(self.environment.reference, patience: .seconds(60))
        let claim = patient.claim(RecordFileTests.record("api-server", by: 1), options: SidecarOptions())
        async let locations = claim.sidecars()
        try await Task.sleep(for: .milliseconds(120))
        try ready.write(to: self.folder)
        #expect(try await locations == [Self.location])
    }

    @Test func withoutPorts() async throws {
        var state = self.state(supervisor: self.own, service: self.own, sidecar: self.own)
        state.services[0].service.ports = []
        state.services[0].sidecars = []
        try state.write(to: self.folder)
        let member = RecordFileTests.member(1)
        try RecordFile(in: self.folder).add(member)
        await #expect(
            throws: Problem(
                .failed,
                "service 'api-server' publishes no ports, so there is nothing to intercept",
                "Give it 'ports' in \(self.environment.reference.location)"
            )
        ) { try await self.claim("api-server", by: 1).sidecars() }
    }

    @Test func found() throws {
        let near = self.environment.reference
        let far = EnvironmentReference(kind: .local, name: "gone", location: self.room("gone/compose.yaml"))
        try self.room.file("docker-compose.yml", "services: {a: {image: x}}")
        try self.room.file("my app/docker-compose.yml", "name: hidden")
        let list = { Array(LocalDiscovery.find(from: self.room("my app"), known: [near, far]).prefix(2)) }
        let broken = "\(self.room("docker-compose.yml")):1:12: service 'a' has no command"
        #expect(list().first == FoundEnvironment(near, .down))
        #expect(list().last?.state == .broken && list().last?.reason?.hasPrefix(broken) == true)
        let all = LocalDiscovery.find(from: self.room("my app"), known: [near, far])
        #expect(
            all.last
                == FoundEnvironment(
                    far,
                    .broken,
                    reason: "there is no \(self.room("gone/compose.yaml")). Name a compose file with --file.",
                    isGone: true
                )
        )
        try self.state(supervisor: self.own, service: self.own, sidecar: self.own).write(to: self.folder)
        #expect(list().first == FoundEnvironment(near, .up))
    }
}

/// Answers every request alike.
private struct Supervisor {
    private let eventLoop: any EventLoop
    private let server: NIOLoopBound<JSONLinesServer<SupervisorRequest, SupervisorReply>>
    private let log: NIOLoopBoundBox<[SupervisorRequest]>

    init(in folder: StateFolder, answers reply: SupervisorReply) async throws {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let descriptor = try LocalSocket.listen(at: folder.supervisorSocket)
        let requests = NIOLoopBoundBox.makeBoxSendingValue([SupervisorRequest](), eventLoop: eventLoop)
        self.eventLoop = eventLoop
        self.log = requests
        self.server = try await eventLoop.submit {
            let server = JSONLinesServer<SupervisorRequest, SupervisorReply>(
                eventLoop: eventLoop,
                mayConnect: { _ in true },
                onConnect: { _ in },
                onRequest: { request, connection in
                    requests.value.append(request)
                    connection.send(reply)
                }
            )
            _ = server.start(on: descriptor)
            return NIOLoopBound(server, eventLoop: eventLoop)
        }.get()
    }

    func requests() async throws -> [SupervisorRequest] {
        try await self.eventLoop.submit { self.log.value }.get()
    }

    func close() async throws { try await self.eventLoop.submit { self.server.value.close() }.get() }
}
