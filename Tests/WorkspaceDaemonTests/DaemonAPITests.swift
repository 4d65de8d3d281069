import Environments
import FoundationEssentials
import InterceptModel
import Testing
import WorkspaceAPI
import WorkspaceAgent

@testable import WorkspaceDaemon

@Suite struct DaemonAPITests {
    static let environment = EnvironmentReference(kind: .local, name: "demo", location: "/srv/demo/compose.yaml")
    static let mapping = PortMapping(ServicePort(8_080), to: Endpoint(host: "127.0.0.1", port: 3_000))

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

    @Test func `what is the same request`() throws {
        let other = PortMapping(ServicePort(1), to: Endpoint(host: "h", port: 2))
        func request(_ mappings: [PortMapping], drainSeconds: Int = 10, force: Bool = false) throws -> StartRequest {
            try StartRequest(
                environment: Self.environment,
                service: "api",
                mappings: mappings,
                drainSeconds: drainSeconds,
                force: force
            )
        }
        let one = try request([Self.mapping, other])
        #expect(one.isSame(as: try request([other, Self.mapping], force: true)))
        #expect(!one.isSame(as: try request([other, Self.mapping], drainSeconds: 0)))
    }

    @Test func `what is stored`() throws {
        let folder = try TemporaryFolder()
        let path = "\(folder.path)/intercepts.json"
        #expect(try StoredIntercepts.read(path) == StoredIntercepts())
        var stored = StoredIntercepts()
        stored.intercepts = [
            .init(
                request: try StartRequest(environment: Self.environment, service: "api", mappings: [Self.mapping]),
                generation: 3,
                since: "2026-03-01T09:30:00Z"
            )
        ]
        try stored.write(to: path)
        #expect(try StoredIntercepts.read(path) == stored)
        stored.version = 2
        try stored.write(to: path)
        #expect(throws: Problem.self) { try StoredIntercepts.read(path) }
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
