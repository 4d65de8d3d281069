import CommandText
import Environments
import FoundationEssentials
import GoldenFiles
import InterceptModel
import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

/// What goes over the daemon's socket and into its file, as other versions of kl know it.
@Suite struct GoldenAPITests {
    static let local = EnvironmentReference(kind: .local, name: "demo", location: "/srv/demo/compose.yaml")
    static let docker: EnvironmentReference = {
        let engine = DockerEngine(
            host: "unix:///var/run/docker.sock",
            configuration: "/home/ada/.docker",
            variables: ["DOCKER_API_VERSION": "1.41"]
        )
        return DockerPlace(.project("shop"), engine: engine).reference
    }()
    static let tcp = PortMapping(ServicePort(8_080), to: Endpoint(host: "127.0.0.1", port: 3_000))
    static let udp = PortMapping(ServicePort(53, .udp), to: Endpoint(host: "::1", port: 5_353))

    static func plain(
        carrier: CarrierChoice = .auto,
        proxyProtocol: ProxyProtocol? = nil,
        endpoint: Endpoint? = nil
    ) throws -> StartRequest {
        try StartRequest(
            environment: Self.local,
            service: "api",
            mappings: [Self.tcp],
            proxyProtocol: proxyProtocol,
            carrier: carrier,
            endpoint: endpoint
        )
    }

    static func full() throws -> StartRequest {
        try StartRequest(
            environment: Self.docker,
            service: "api",
            mappings: [Self.tcp, Self.udp],
            onUnavailable: .refuse,
            probes: .workspace,
            drainSeconds: 600,
            force: true,
            proxyProtocol: .v2,
            carrier: .udp,
            endpoint: Endpoint(host: "::1", port: 51_820),
            sidecarImage: "registry.example/kl-sidecar:0.1.0"
        )
    }

    static func mirror() throws -> StartRequest {
        try StartRequest(environment: Self.local, service: "api", mappings: [Self.tcp], kind: .mirror)
    }

    static let sidecar = SidecarStatus(
        name: "api-1",
        phase: .pending,
        publicKey: "9f3cYk=",
        address: "127.0.0.1:51820",
        listens: ["127.0.0.1:8080"]
    )
    static let fullSidecar: SidecarStatus = {
        var status = SidecarStatus(
            name: "api-2",
            phase: .active,
            publicKey: "3Jx54Q=",
            carrier: .udp,
            address: "[::1]:51820",
            listens: ["127.0.0.1:8080", "127.0.0.1:53/udp"]
        )
        status.reason = "the tunnel is down"
        status.originalSees = SeenAddress("sidecar", because: "a rule is in the way", from: "172.18.0.3")
        status.rttMs = 0.312
        status.handshakeAgeSeconds = 12.5
        status.messagesSent = 10_211
        status.messagesLost = 3
        status.mtu = 1_452
        status.carrierChanges = 2
        return status
    }()

    static let status = InterceptStatus(
        environment: local,
        service: "api",
        phase: .pending,
        since: "2026-03-01T09:30:00Z"
    )
    static let fullStatus: InterceptStatus = {
        var status = InterceptStatus(
            environment: docker,
            service: "api",
            phase: .degraded,
            since: "2026-03-01T09:30:00Z"
        )
        status.reason = "connection refused"
        status.phaseSince = "2026-03-01T09:31:00Z"
        status.generation = 7
        status.mappings = [Self.tcp, Self.udp]
        status.missingServers = [ServicePort(8_080), ServicePort(53, .udp)]
        status.onUnavailable = .refuse
        status.open = 1
        status.total = 2
        status.passed = 3
        status.bytesIn = 4
        status.bytesOut = 5
        status.sidecars = [Self.sidecar, Self.fullSidecar]
        return status
    }()

    static let other = PortHolder(
        Member(label: "eve@desk", publicKey: "9f3cYk="),
        ports: [ServicePort(8_080), ServicePort(53, .udp)]
    )

    static let steps = [
        Step(.waitsForDrain), Step(.sidecarRunning, seconds: 0.25),
        Step(.tunnelUp([Self.sidecar, Self.fullSidecar]), seconds: 0.5), Step(.portMapped(Self.tcp), seconds: 0.125),
        Step(.localServerMissing(Self.udp)), Step(.originalAnswers(), seconds: 1.5),
        Step(.holdersAnswer([Self.other]), seconds: 1.5),
        Step(.nothingAnswers(because: "exited with code 1"), seconds: 2), Step(.copiesEnded, seconds: 0.5),
        Step(.drained(open: 3, reset: 1), seconds: 10),
    ]

    @Test func `requests`() throws {
        var golden = GoldenFile("requests")
        let requests: [(String, DaemonRequest)] = [
            ("start", .start(try Self.plain())), ("start with all", .start(try Self.full())),
            ("start over tcp", .start(try Self.plain(carrier: .tcp))),
            ("start over a command", .start(try Self.plain(carrier: .exec))),
            ("start with PROXY v1", .start(try Self.plain(proxyProtocol: .v1))),
            ("start with an endpoint", .start(try Self.plain(endpoint: .init(host: "sidecar.example", port: 51_820)))),
            ("start of a mirror", .start(try Self.mirror())),
            ("start with variables", .start(try Self.plain(), variables: ["AWS_PROFILE": "dev"])),
            ("stop", .stop(StopRequest(environment: Self.local, service: "api"))),
            ("stop with a time", .stop(StopRequest(environment: Self.docker, service: "api", drainSeconds: 3))),
            (
                "stop with variables",
                .stop(StopRequest(environment: Self.local, service: "api"), variables: ["AWS_PROFILE": "dev"])
            ),
            ("status", .status), ("follow", .follow(service: "api")), ("shutDown", .shutDown),
            ("handOver", .handOver),
        ]
        for (name, request) in requests { try golden.add(name, json: request) }
        #expect(try golden.differences() == [])
    }

    @Test func `replies`() throws {
        var golden = GoldenFile("replies")
        try golden.add("hello", json: DaemonReply.hello(version: "0.1.0", pid: 7))
        for step in Self.steps { try golden.add(step.name, json: DaemonReply.step(step)) }
        try golden.add("no intercepts", json: DaemonReply.intercepts([]))
        try golden.add("intercepts", json: DaemonReply.intercepts([Self.status, Self.fullStatus]))
        for phase in [Phase.active, .stopping, .failed] {
            var status = Self.status
            status.phase = phase
            try golden.add("changed to \(phase.rawValue)", json: DaemonReply.changed(status))
        }
        var mirror = Self.status
        (mirror.kind, mirror.behind) = (.mirror, 5)
        try golden.add("changed, a mirror", json: DaemonReply.changed(mirror))
        try golden.add("done", json: DaemonReply.done(nil))
        try golden.add("done with a status", json: DaemonReply.done(Self.fullStatus))
        for code in [Problem.Code.failed, .notUp, .noSuchService, .noSuchIntercept, .busy] {
            let problem = Problem(code, "\"quoted\" ü / \\ it is so. Do this.")
            try golden.add("failed: \(code.rawValue)", json: DaemonReply.failed(problem))
        }
        #expect(try golden.differences() == [])
    }

    @Test func `what is stored`() throws {
        var golden = GoldenFile("intercepts.json")
        var stored = StoredIntercepts()
        try golden.add("none", json: stored)
        stored.areHandedOver = true
        stored.intercepts = [
            .init(request: try Self.full(), generation: 7, since: "2026-03-01T09:30:00Z", wasLost: true),
            .init(request: try Self.plain(), generation: 1, since: "2026-03-01T09:30:00Z"),
        ]
        try golden.add("two", json: stored)
        stored.intercepts.append(.init(request: try Self.mirror(), generation: 1, since: "2026-03-01T09:30:00Z"))
        try golden.add("with a mirror", json: stored)
        #expect(try golden.differences() == [])
        let folder = try TemporaryFolder()
        let path = "\(folder.path)/intercepts.json"
        try stored.write(to: path)
        let written = try String(contentsOf: URL(filePath: path), encoding: .utf8)
        #expect(written == (try GoldenFile.json(stored)))
    }

    /// Requests that no kl of this version makes, but another version or another program may: what the daemon says to them.
    @Test func `what is said to requests of others`() throws {
        let environment = #""environment":{"kind":"local","location":"/srv/demo/compose.yaml","name":"demo"}"#
        let mappings = #""mappings":[{"host":"127.0.0.1","port":3000,"service":8080}]"#
        let rest = #""drainSeconds":10,"force":false,"onUnavailable":"original","probes":"original","service":"api""#
        let lines = [
            "{\(environment),\(mappings),\(rest)}",
            "{\(environment),\(mappings),\(rest),\"later\":{\"unknown\":[1]}}",
            "{\(environment),\(mappings),\(rest),\"carrier\":\"auto\"}",
            "{\(environment),\(mappings),\(rest),\"kind\":\"intercept\"}",
            "{\(environment),\(mappings),\(rest),\"kind\":\"mirror\"}",
            "{\(environment),\(mappings),\(rest),\"kind\":\"filter\"}",
            "{\(environment),\(mappings),\(rest.replacing("original\",\"probes", with: "none\",\"probes")),\"kind\":\"mirror\"}",
            "{\(environment),\(mappings),\(rest.replacing("original\",\"probes", with: "none\",\"probes"))}",
            "{\(environment),\(mappings),\(rest.replacing("false", with: "true")),\"kind\":\"mirror\"}",
            "{\(environment),\(mappings),\(rest),\"carrier\":\"pigeon\"}",
            "{\(environment),\(mappings),\(rest),\"carrier\":\"exec\",\"endpoint\":\"127.0.0.1:1\"}",
            "{\(environment),\(mappings),\(rest),\"endpoint\":\"nowhere\"}",
            "{\(environment),\(mappings),\(rest),\"endpoint\":\"127.0.0.1:0\"}",
            "{\(environment),\(mappings),\(rest),\"endpoint\":\"localhost:1\"}",
            "{\(environment),\(mappings),\(rest),\"proxyProtocol\":\"v3\"}",
            "{\(environment),\(mappings),\(rest),\"sidecarImage\":\"-x\"}",
            "{\(environment),\(mappings),\(rest),\"sidecarImage\":\"\"}",
            "{\(environment),\"mappings\":[],\(rest)}",
            "{\(environment),\(mappings.replacing("3000", with: "0")),\(rest)}",
            "{\(environment),\(mappings.replacing("8080", with: "0")),\(rest)}",
            "{\(environment),\(mappings.replacing("127.0.0.1", with: "")),\(rest)}",
            "{\(environment),\(mappings.replacing("]", with: #",{"host":"::1","port":1,"service":8080}]"#)),\(rest)}",
            "{\(environment),\(mappings.replacing("8080", with: #"8080,"transport":"tcp""#)),\(rest)}",
            "{\(environment),\(mappings.replacing("8080", with: #"8080,"transport":"sctp""#)),\(rest)}",
            "{\(environment),\(mappings),\(rest.replacing("10", with: "601"))}",
            "{\(environment),\(mappings),\(rest.replacing("10", with: "-1"))}",
            "{\(environment),\(mappings),\(rest.replacing("\"api\"", with: "\"\""))}",
            "{\(environment),\(mappings),\(rest.replacing("original", with: "never"))}",
            "{\(environment),\(mappings),\(rest.replacing("\"probes\":\"original\"", with: "\"probes\":\"\""))}",
            "{\(environment),\(mappings),\(rest.replacing("\"force\":false,", with: ""))}",
        ]
        var golden = GoldenFile("requests-of-others")
        for line in lines { golden.add("{\"start\":{\"_0\":\(line)}}", Self.answer(line)) }
        #expect(try golden.differences() == [])
    }

    private static func answer(_ line: String) -> String {
        let text = "{\"start\":{\"_0\":\(line)}}"
        do {
            let read = try JSONDecoder().decode(Checked<DaemonRequest>.self, from: Data(text.utf8))
            _ = try read.result.get()
            return "is granted"
        } catch let problem as Problem {
            return (try? GoldenFile.json(DaemonReply.failed(problem))) ?? ""
        } catch {
            return "isn't understood"
        }
    }
}
