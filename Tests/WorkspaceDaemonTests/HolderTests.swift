import Environments
import InterceptModel
import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

/// Several workspaces at one service, in one process with its sidecar.
@Suite(.timeLimit(.minutes(10))) struct HolderTests {
    @Test func `a mirror beside an intercept`() async throws {
        let stage = try await Stage()
        let (one, two) = (try await NamedServer("ada"), try await NamedServer("grace"))
        let (ada, grace) = (try await Workspace(stage), try await Workspace(stage))
        let (mirror, steps) = try await grace.start((8_080, two.port), kind: .mirror)
        #expect((mirror.kind, mirror.phase, mirror.onUnavailable, mirror.behind) == (.mirror, .active, nil, 0))
        #expect(steps.map(\.name) == ["sidecarRunning", "tunnelUp", "portMapped"])
        #expect(await ask(stage.port()) == "original")
        #expect(await eventually { await grace.status?.total == 1 })
        try await ada.start((8_080, one.port))
        #expect(await ask(stage.port()) == "ada")
        #expect(await eventually { await grace.status?.total == 2 })
        #expect(stage.records.map(\.kind) == [.mirror, .intercept])
        let stored = try StoredIntercepts.read(grace.home.intercepts)
        #expect(stored.intercepts.map(\.request.kind) == [.mirror])

        let (_, last) = try await grace.stop()
        #expect(last.map(\.name) == ["copiesEnded", "drained"])
        #expect(stage.records.map(\.kind) == [.intercept])
        #expect(await ask(stage.port()) == "ada")
        try await ada.stop()
        #expect(await ask(stage.port()) == "original")
        #expect(stage.records == [])
    }

    /// A service is held in one way at a time, and a refusal leaves that as it is.
    @Test(arguments: [HoldingKind.intercept, .mirror]) func `the other kind`(kind: HoldingKind) async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        try await workspace.start((8_080, mine.port), kind: kind)
        let other = kind == .mirror ? HoldingKind.intercept : .mirror
        await #expect(throws: Problem.held("api", as: kind)) {
            try await workspace.start((8_080, mine.port), kind: other)
        }
        #expect(await workspace.status?.kind == kind)
        #expect(await workspace.phase == .active)
        #expect(await ask(stage.port()) == (kind == .mirror ? "original" : "workspace"))
        try await workspace.stop()
        try await workspace.start((8_080, mine.port), kind: other)
        #expect(await workspace.status?.kind == other)
        try await workspace.stop()
    }

    @Test func `two ports of one service`() async throws {
        let stage = try await Stage(ports: [8_080, 9_090])
        let (one, two) = (try await NamedServer("ada"), try await NamedServer("grace"))
        let (ada, grace) = (try await Workspace(stage), try await Workspace(stage))
        try await ada.start((8_080, one.port))
        let busy = await #expect(throws: Problem.self) { try await grace.start((9_090, two.port), (8_080, two.port)) }
        #expect(busy?.code == .busy)
        #expect(busy?.description.contains("since") == true)
        #expect(await ask(stage.port(9_090)) == "original")
        try await grace.start((9_090, two.port))
        #expect(await ask(stage.port()) == "ada")
        #expect(await ask(stage.port(9_090)) == "grace")
        // A list that another one's port is in by now is refused as a whole.
        await #expect(throws: Problem.self) { try await grace.start((9_090, two.port), (8_080, two.port)) }
        #expect(await ask(stage.port()) == "ada")
        #expect(await ask(stage.port(9_090)) == "grace")
        try await ada.stop()
        #expect(await ask(stage.port(9_090)) == "grace")
        #expect(await ask(stage.port()) == "original")
        try await grace.stop()
        #expect(stage.records == [])
    }
}
