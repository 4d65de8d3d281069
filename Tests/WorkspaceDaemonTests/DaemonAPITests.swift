import Environments
import FoundationEssentials
import Testing
import WorkspaceAPI
import WorkspaceAgent

@testable import WorkspaceDaemon

@Suite struct DaemonAPITests {
    static let environment = EnvironmentReference(kind: .local, name: "demo", location: "/srv/demo/compose.yaml")
    static let mapping = StartRequest.Mapping(service: 8_080, host: "127.0.0.1", port: 3_000)

    static let requests: [DaemonRequest] = [
        .start(StartRequest(environment: environment, service: "api", mappings: [mapping])),
        .stop(StopRequest(environment: environment, service: "api", drainSeconds: 3)),
        .stop(StopRequest(environment: environment, service: "api")),
        .status, .follow(service: "api"), .shutDown, .handOver,
    ]

    static let replies: [DaemonReply] = {
        var step = DaemonReply.Step(.tunnelUp, seconds: 0.25)
        step.mapping = mapping
        step.connections = 3
        var status = InterceptStatus(
            environment: environment,
            service: "api",
            phase: .degraded,
            since: "2026-03-01T09:30:00Z"
        )
        status.reason = "connection refused"
        status.mappings = [mapping]
        status.sidecars = [
            SidecarStatus(
                name: "api-1",
                phase: .active,
                publicKey: "k",
                address: "127.0.0.1:1",
                listens: ["127.0.0.1:2"]
            )
        ]
        return [
            .hello(version: "0.1.0", pid: 7), .step(step), .intercepts([status]), .changed(status), .done(status),
            .done(nil),
            .failed(.init(code: .busy, message: "\"quoted\" ü")),
        ]
    }()

    @Test(arguments: requests) func `a request is read as it was written`(request: DaemonRequest) throws {
        let line = try JSONEncoder().encode(request)
        #expect(!line.contains(UInt8(ascii: "\n")))
        #expect(try JSONDecoder().decode(DaemonRequest.self, from: line) == request)
    }

    @Test(arguments: replies) func `a reply is read as it was written`(reply: DaemonReply) throws {
        let line = try JSONEncoder().encode(reply)
        #expect(!line.contains(UInt8(ascii: "\n")))
        #expect(try JSONDecoder().decode(DaemonReply.self, from: line) == reply)
    }

    /// Other versions rely on these: they are how one is told from another.
    @Test func `how hello and handOver are written`() throws {
        func text(_ value: some Encodable) throws -> String {
            String(decoding: try JSONEncoder().encode(value), as: UTF8.self)
        }
        #expect(try text(DaemonRequest.handOver) == #"{"handOver":{}}"#)
        #expect(try text(DaemonReply.done(nil)) == #"{"done":{}}"#)
        let hello = #"{"hello":{"pid":7,"version":"0.0.9"}}"#
        #expect(
            try JSONDecoder().decode(DaemonReply.self, from: Data(hello.utf8)) == .hello(version: "0.0.9", pid: 7)
        )
    }

    @Test func `what can't be started`() {
        let wrong: [(String, (inout StartRequest) -> Void)] = [
            ("no port is mapped", { $0.mappings = [] }),
            ("ports are 1", { $0.mappings[0].port = 0 }),
            ("ports are 1", { $0.mappings[0].service = 0 }),
            ("ports are 1", { $0.mappings[0].host = "" }),
            ("for the same port", { $0.mappings.append(.init(service: 8_080, host: "::1", port: 4_000)) }),
            ("the drain time", { $0.drainSeconds = 601 }),
            ("the drain time", { $0.drainSeconds = -1 }),
            ("--on-unavailable", { $0.onUnavailable = "never" }),
            ("--on-unavailable", { $0.probes = "" }),
            ("a service's name", { $0.service = "" }),
            ("--proxy-protocol", { $0.proxyProtocol = "v3" }),
            ("--carrier is auto, udp, tcp or exec", { $0.carrier = "pigeon" }),
            ("--endpoint", { $0.endpoint = "nowhere" }),
            (
                "--endpoint",
                {
                    $0.endpoint = "127.0.0.1:1"
                    $0.carrier = "exec"
                }
            ),
        ]
        for (sentence, change) in wrong {
            var request = StartRequest(environment: Self.environment, service: "api", mappings: [Self.mapping])
            change(&request)
            let error = #expect(throws: RequestFailure.self) { try request.check() }
            #expect(error?.failure.message.contains(sentence) == true, "\(error?.failure.message ?? "")")
        }
    }

    @Test func `what is the same request`() {
        let one = StartRequest(
            environment: Self.environment,
            service: "api",
            mappings: [Self.mapping, .init(service: 1, host: "h", port: 2)]
        )
        var other = one
        other.mappings.reverse()
        other.force = true
        #expect(one.isSame(as: other))
        other.drainSeconds = 0
        #expect(!one.isSame(as: other))
    }

    @Test func `what is stored`() throws {
        let folder = try TemporaryFolder()
        let path = "\(folder.path)/intercepts.json"
        #expect(try StoredIntercepts.read(path) == StoredIntercepts())
        var stored = StoredIntercepts()
        stored.intercepts = [
            .init(
                request: StartRequest(environment: Self.environment, service: "api", mappings: [Self.mapping]),
                generation: 3,
                since: "2026-03-01T09:30:00Z"
            )
        ]
        try stored.write(to: path)
        #expect(try StoredIntercepts.read(path) == stored)
        stored.version = 2
        try stored.write(to: path)
        #expect(throws: WorkspaceError.self) { try StoredIntercepts.read(path) }
    }
}

/// A sidecar that ends its tunnels, and says the greatest numbers each time, ends no daemon.
@Test func countsOfManySidecars() {
    var one = WorkspaceAgent.Counts()
    one.total = .max - 1
    one.bytesIn = 3
    let sum = one + one + one
    #expect(sum.total == .max && sum.bytesIn == 9 && sum.open == 0)
}
