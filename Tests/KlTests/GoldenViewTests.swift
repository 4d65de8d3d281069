import Environments
import Foundation
import GoldenFiles
import InterceptModel
import Testing
import WorkspaceAPI

@testable import kl

/// What kl prints: with `-o json` for programs, and for people.
@Suite struct GoldenViewTests {
    static let local = EnvironmentReference(kind: .local, name: "demo", location: "/srv/demo/compose.yaml")
    static let docker: EnvironmentReference =
        DockerPlace(.project("shop"), engine: DockerEngine(host: "unix:///var/run/docker.sock")).reference
    static let holder = Member(label: "ada@thinkpad", publicKey: "9f3cAAAAAAAAAAAAYk=")
    /// Ages and local times depend on when and where the test runs, so these times can't be read.
    static let since = "long ago"

    static let mappings = [
        PortMapping(ServicePort(8_080), to: Endpoint(host: "127.0.0.1", port: 3_000)),
        PortMapping(ServicePort(53, .udp), to: Endpoint(host: "::1", port: 5_353)),
        PortMapping(ServicePort(9_090), to: Endpoint(host: "192.0.2.1", port: 9_090)),
    ]

    static let sidecars: [SidecarStatus] = {
        let first = SidecarStatus(
            name: "api-1",
            phase: .pending,
            publicKey: "9f3cYk=",
            address: "127.0.0.1:51820",
            listens: ["127.0.0.1:8080"]
        )
        var second = SidecarStatus(
            name: "api-2",
            phase: .active,
            publicKey: "3Jx5AAAAAAAAAA4Q=",
            carrier: .udp,
            address: "[::1]:51820",
            listens: ["127.0.0.1:8080", "127.0.0.1:53/udp"]
        )
        second.rttMs = 0.312
        second.handshakeAgeSeconds = 12.5
        second.messagesSent = 10_211
        second.messagesLost = 3
        second.mtu = 1_452
        second.carrierChanges = 2
        var third = second
        third.name = "api-3"
        third.phase = .degraded
        third.reason = "the tunnel is down\u{1B}[2J"
        var fourth = second
        fourth.carrier = .exec
        fourth.address = "docker exec --interactive 0123456789abcdef0123456789abcdef kl-sidecar dial --verbose"
        fourth.carrierChanges = 1
        return [first, second, third, fourth]
    }()

    static func status(_ phase: Phase, _ change: (inout InterceptStatus) -> Void = { _ in }) -> InterceptStatus {
        var status = InterceptStatus(environment: Self.local, service: "api", phase: phase, since: Self.since)
        status.mappings = Self.mappings
        status.generation = 7
        (status.open, status.total, status.passed) = (1, 10_211, 3)
        (status.bytesIn, status.bytesOut) = (13_002_342, 999)
        status.sidecars = Self.sidecars
        change(&status)
        return status
    }

    private static let seen: [(String, String?, String?)] = [
        ("clients call the sidecar", "127.0.0.1", nil),
        ("another program's rule", "172.18.0.3", "a rule is in the way"),
        ("an unknown address", nil, "the kernel can't"),
    ]

    static var views: [(String, InterceptView)] {
        let active = Self.status(.active) {
            $0.missingServers = [ServicePort(8_080), ServicePort(53, .udp)]
            $0.onUnavailable = .original
        }
        let refusing = Self.status(.active) {
            $0.missingServers = [ServicePort(8_080)]
            $0.onUnavailable = .refuse
            $0.sidecars = [Self.sidecars[3]]
        }
        var views = [
            ("active", InterceptView(active, holder: Self.holder)),
            ("refusing", InterceptView(refusing, holder: Self.holder)),
            ("without sidecars", InterceptView(Self.status(.pending) { $0.sidecars = [] }, holder: Self.holder)),
            ("failed", InterceptView(Self.status(.failed) { $0.reason = "taken over by eve" }, holder: Self.holder)),
        ]
        var record = InterceptRecord(
            service: "api",
            holder: Self.holder,
            since: Self.since,
            ports: [
                .init(service: 8_080, target: "127.0.0.1:3000"),
                .init(service: 53, transport: .udp, target: "[::1]:5353"), .init(service: 1, target: ""),
            ]
        )
        let home = WorkspaceHome(folder: "/home/ada/.kl")
        for refuses in [nil, true] {
            record.refuses = refuses
            for isDiverting in [nil, true, false] {
                record.isDiverting = isDiverting
                record.connections = isDiverting.map { _ in .init(open: 1, total: 2_000, passed: 3) }
                let name = "\(refuses == nil ? "" : "refusing ")\(isDiverting.map { "\($0)" } ?? "unknown")"
                func add(_ name: String, _ view: InterceptView) {
                    views.append((name, view))
                    guard view.phase == .degraded else { return }
                    var silent = view
                    silent.nothingAnswers(because: "exited with code 1")
                    views.append((name + ", nothing answers", silent))
                }
                add("record, \(name)", InterceptView(record, environment: Self.docker, isOwn: false))
                add("own record, \(name)", InterceptView(record, environment: Self.docker, isOwn: true))
                for pid in [nil, 77] as [Int32?] {
                    let daemon = SilentDaemon(pid: pid, home: home)
                    let view = InterceptView(record, environment: Self.docker, isOwn: true, daemon)
                    add("own record, \(name), silent daemon \(pid ?? 0)", view)
                }
            }
        }
        var daemons = InterceptView(Self.status(.degraded) { $0.reason = "no sidecar is there" }, holder: Self.holder)
        views.append(("degraded", daemons))
        for (name, address, reason) in Self.seen {
            let seen = SeenAddress("sidecar", because: reason, from: address)
            let shown = Self.status(.active) {
                $0.sidecars = Array($0.sidecars.prefix(2))
                $0.sidecars[0].originalSees = .clients
                $0.sidecars[1].originalSees = seen
            }
            views.append((name, InterceptView(shown, holder: Self.holder)))
            record.originalSees = seen
            views.append(("record, \(name)", InterceptView(record, environment: Self.docker, isOwn: false)))
        }
        record.originalSees = .clients
        views.append(("clients are seen", InterceptView(record, environment: Self.docker, isOwn: false)))
        daemons.nothingAnswers(because: Self.local.notUpReason)
        views.append(("degraded, nothing answers", daemons))
        return views
    }

    /// Of this workspace's daemon, and on record.
    static var mirrors: [(String, InterceptView)] {
        let own = Self.status(.active) {
            $0.kind = .mirror
            $0.behind = 1
            $0.missingServers = [ServicePort(8_080)]
        }
        var record = InterceptRecord(
            service: "api",
            holder: Member(label: "grace@thinkpad", publicKey: "3Jx5AAAAAAAAAA4Q="),
            since: Self.since,
            ports: [.init(service: 8_080, target: "127.0.0.1:3000")],
            kind: .mirror
        )
        record.lastSeen = Self.since
        var views = [("own mirror", InterceptView(own, holder: Self.holder))]
        for isDiverting in [true, false] {
            record.isDiverting = isDiverting
            record.connections = .init(open: 1, total: 2_000, passed: 0, behind: isDiverting ? 1_234 : 0)
            views.append(("mirror, \(isDiverting)", InterceptView(record, environment: Self.docker, isOwn: false)))
        }
        views.append(("own mirror, on record", InterceptView(record, environment: Self.docker, isOwn: true)))
        return views
    }

    @Test func `who answers beside a mirror`() throws {
        var golden = GoldenFile("start-words")
        let request = try StartRequest(environment: Self.local, service: "api", mappings: Self.mappings, kind: .mirror)
        func holder(_ name: String, _ port: UInt16, isServed: Bool = true) -> InterceptView {
            var record = InterceptRecord(
                service: "api",
                holder: Member(label: name, publicKey: name),
                since: Self.since,
                ports: [.init(service: port, target: "")]
            )
            record.isDiverting = isServed
            return InterceptView(record, environment: Self.local, isOwn: false)
        }
        let grace = holder("grace@thinkpad", 8_080)
        for (name, holders) in [
            ("nobody", []), ("a holder of one", [grace]),
            ("a holder who isn't there", [holder("grace@thinkpad", 8_080, isServed: false)]),
            ("mirrors", Self.mirrors.map(\.1)), ("two holders", [grace, holder("eve\u{1B}", 9_090)]),
        ] { golden.add(name, StartWords(request).done(holders)) }
        golden.add("warning", StartWords(request).warning ?? "")
        #expect(try golden.differences() == [])
    }

    @Test func `intercepts`() throws {
        var json = GoldenFile("intercepts-json")
        var text = GoldenFile("intercepts-text")
        for (name, view) in Self.views + Self.mirrors { text.add(name, view.text) }
        let all = InterceptList(environment: "demo", holders: (Self.views + Self.mirrors).map(\.1))
        for list in [all, InterceptList(environment: "demo", holders: [])] {
            json.add("list of \(list.holders.count)", try GoldenFile.json(list, pretty: true))
            text.add("list of \(list.holders.count)", list.text)
        }
        #expect(try json.differences() == [])
        #expect(try text.differences() == [])
    }

    @Test func `changes`() throws {
        var golden = GoldenFile("changes")
        let steps = [StepView(name: "tunnelUp", seconds: 0.984), StepView(name: "portMapped", seconds: 0)]
        let view = InterceptView(Self.status(.active), holder: Self.holder)
        let start = StartView(intercept: view, steps: steps, warnings: ["a warning."])
        golden.add("start", try GoldenFile.json(start, pretty: true))
        let stopped = StopView.Stopped(
            service: "api",
            reason: "exited with code 1",
            total: 1,
            passed: 2,
            drained: 3,
            reset: 4,
            bytesIn: 5,
            bytesOut: 6,
            steps: steps
        )
        golden.add("stop", try GoldenFile.json(StopView(environment: "demo", stopped: [stopped]), pretty: true))
        var mirror = stopped
        (mirror.kind, mirror.reason, mirror.behind) = (.mirror, nil, 7)
        golden.add(
            "stop of a mirror",
            try GoldenFile.json(StopView(environment: "demo", stopped: [mirror]), pretty: true)
        )
        var given = stopped
        given.reason = nil
        golden.add("ends", [stopped, given, mirror].map { $0.sentence(for: "ada@thinkpad") }.joined(separator: "\n"))
        golden.add(
            "error",
            try GoldenFile.json(ProblemView(Problem(.busy, "it is so.")), pretty: true)
        )
        let states = [
            Self.status(.active), Self.status(.degraded) { $0.reason = "the tunnel is down\u{7}" },
            Self.status(.active) {
                $0.missingServers = [ServicePort(8_080), ServicePort(9_090), ServicePort(53, .udp)]
            },
            Self.status(.failed) {
                $0.onUnavailable = .refuse
                $0.reason = "taken over by eve"
            },
        ]
        for (number, old) in states.enumerated() {
            for (other, new) in states.enumerated() where number != other {
                let lines = ForegroundNews.lines(from: old, to: new)
                golden.add("news from \(number) to \(other)", lines.joined(separator: "\n"))
            }
        }
        #expect(try golden.differences() == [])
    }

    @Test func `environments`() throws {
        var golden = GoldenFile("environments")
        let none = EnvironmentList(environments: [])
        let list = EnvironmentList(environments: [
            .init(name: "demo", kind: "local", state: "up", location: "/srv/demo/compose.yaml", isConnected: true),
            .init(
                name: "bad\u{1B}",
                kind: "docker",
                state: "broken",
                reason: "why",
                location: "x@y",
                isConnected: false
            ),
        ])
        var status = EnvironmentStatus.notConnected
        golden.add("not connected", status.text)
        golden.add("not connected, json", try GoldenFile.json(status, pretty: true))
        status.environment = "demo"
        status.state = "down"
        golden.add("down", status.text)
        status.isConnected = true
        status.kind = "local"
        status.state = "up"
        status.reason = "a problem"
        status.location = "/srv/demo/compose.yaml"
        status.services = [
            .init(
                name: "api",
                state: "running",
                replicas: 2,
                ports: [
                    .init(port: 8_080, target: 21_090, name: "http"), .init(port: 53, target: 53, transport: "udp"),
                ],
                interceptedBy: "ada@thinkpad"
            ), .init(name: "web", state: "restarting", reason: "exited with code 1", replicas: 1, ports: []),
        ]
        status.holders = [Self.views[0].1, Self.views[5].1] + Self.mirrors.map(\.1)
        status.holders[0].originalSees = SeenAddress("sidecar", because: "a rule is in the way", from: "172.18.0.3")
        for (name, list) in [("none", none), ("list", list)] {
            golden.add(name, list.text)
            golden.add("\(name), json", try GoldenFile.json(list, pretty: true))
        }
        golden.add("status", status.text)
        golden.add("status, json", try GoldenFile.json(status, pretty: true))
        #expect(try golden.differences() == [])
    }
}
