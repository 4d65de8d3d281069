import Environments
import InterceptModel
import Testing
import WorkspaceAPI

@testable import WorkspaceAgent
@testable import WorkspaceDaemon

/// Replicas whose own ports have other numbers than the service's.
@Suite(.timeLimit(.minutes(10))) struct OwnPortTests {
    private func port(_ service: UInt16, own: UInt16) -> SidecarLocation.Port { .init(ServicePort(service), own: own) }

    /// The first replica serves both of the service's ports, the second only one of them.
    private func stage() async throws -> Stage {
        let stage = try await Stage(ports: [3_000, 3_001, 3_002])
        try await stage.startSidecar("api-2", ports: [4_000])
        stage.change("api-1") { $0.ports = [self.port(80, own: 3_000), self.port(443, own: 3_001)] }
        stage.change("api-2") { $0.ports = [self.port(80, own: 4_000)] }
        return stage
    }

    @Test func `sidecars hear the replica's ports, people the service's`() async throws {
        let stage = try await self.stage()
        let (mine, absent) = (try await NamedServer("workspace"), try HeldPort())
        let workspace = try await Workspace(stage)
        let (started, _) = try await workspace.start((80, mine.port), (443, absent.port))
        #expect(started.phase == .active)
        #expect(started.mappings.map { "\($0.port)" } == ["80", "443"])
        #expect(started.missingServers == [ServicePort(443)])
        #expect(stage.records.first?.ports.map { "\($0.port)" } == ["80", "443"])
        #expect(await ask(stage.port(3_000)) == "workspace")
        #expect(await ask(stage.port(3_001)) == "original")
        #expect(await ask(stage.port(4_000, of: "api-2")) == "workspace")
        try await workspace.stop()
        #expect(await ask(stage.port(4_000, of: "api-2")) == "original")
        withExtendedLifetime(absent) {}
    }

    @Test func `a replica without any of the ports has no part in it`() async throws {
        let stage = try await self.stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((80, mine.port))
        let (raised, _) = try await workspace.start((443, mine.port))
        #expect(raised.phase == .active)
        #expect(raised.sidecars.map(\.name) == ["api-1"])
        #expect(await ask(stage.port(3_001)) == "workspace")
        #expect(await eventually { await ask(stage.port(4_000, of: "api-2")) == "original" })
        try await workspace.start((80, mine.port))
        #expect(await eventually { await ask(stage.port(4_000, of: "api-2")) == "workspace" })
        try await workspace.stop()
    }

    @Test func `the service's port leads to another one later`() async throws {
        let stage = try await self.stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((80, mine.port))
        stage.change("api-1") { $0.ports = [self.port(80, own: 3_002)] }
        #expect(await eventually { await ask(stage.port(3_002)) == "workspace" })
        #expect(await ask(stage.port(3_000)) == "original")
        #expect(await eventually { await workspace.phase == .active })
        try await workspace.stop()
    }

    @Test func `of two that are one port there, the first counts`() throws {
        let targets = try LocalTargets([
            PortMapping(ServicePort(80), to: .init(host: "127.0.0.1", port: 1)),
            PortMapping(ServicePort(81), to: .init(host: "127.0.0.1", port: 2)),
            PortMapping(ServicePort(53, .udp), to: .init(host: "127.0.0.1", port: 3)),
        ])
        var location = SidecarLocation(name: "a", publicKey: "", tcp: "", listens: [])
        #expect(targets.named(as: location).mappings == targets.mappings)
        location.ports = [self.port(80, own: 8_080), self.port(81, own: 8_080), self.port(53, own: 5_353)]
        #expect(targets.named(as: location).mappings.map(\.description) == ["8080:127.0.0.1:1"])
        location.ports?.append(.init(ServicePort(53, .udp), own: 53))
        #expect(
            targets.named(as: location).mappings.map(\.description) == ["8080:127.0.0.1:1", "53:127.0.0.1:3/udp"]
        )
    }
}
