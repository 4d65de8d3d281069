import CommandText
import Environments
import HostSupport
import InterceptModel
import NIOCore
import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

/// By which way, and at which address, sidecars are dialled.
@Suite(.timeLimit(.minutes(10))) struct CarrierTests {
    private let nowhere = Endpoint(host: "127.0.0.1", port: 1)

    /// A command that leads to where the sidecar listens.
    private func command(to tcp: String) -> [String] {
        let port = tcp.split(separator: ":").last ?? ""
        return ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/\(port); cat <&3 & exec cat >&3"]
    }

    @Test func `a command leads where the address doesn't`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        stage.change {
            $0.command = self.command(to: $0.tcp)
            $0.tcp = self.nowhere.description
        }
        let workspace = try await Workspace(stage)
        let (_, steps) = try await workspace.start((8_080, mine.port))
        let sidecar = try #require(steps[1].sidecars.first)
        #expect(sidecar.carrier == .exec)
        #expect(sidecar.address.hasPrefix("bash -c "))
        let short = sidecar.address.abbreviatedCommand
        #expect(short.hasPrefix("bash -c ") && short.hasSuffix(" …"))
        #expect(await ask(stage.port()) == "workspace")
        try await workspace.stop()
    }

    @Test func `an address is preferred, and a choice obeyed`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        stage.change { $0.command = self.command(to: $0.tcp) }
        let workspace = try await Workspace(stage)
        var (_, steps) = try await workspace.start((8_080, mine.port))
        #expect(steps[1].sidecars.first?.carrier == .tcp)
        // Of the intercept that runs: its connection goes on over the other carrier.
        let choices: [(CarrierChoice, SidecarStatus.Carrier)] = [
            (.exec, .exec), (.tcp, .tcp), (.auto, .tcp), (.exec, .exec),
        ]
        for (choice, carrier) in choices {
            (_, steps) = try await workspace.start((8_080, mine.port), carrier: choice)
            #expect(steps[1].sidecars.first?.carrier == carrier)
            #expect(await ask(stage.port()) == "workspace")
        }
        try await workspace.stop()
    }

    @Test func `what can't be chosen`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        let workspace = try await Workspace(stage)
        var failure = await #expect(throws: Problem.self) {
            try await workspace.start((8_080, mine.port), carrier: .exec)
        }
        #expect(failure?.description.contains("no command leads to the sidecar api-1") == true)
        stage.change { $0.tcp = "" }
        failure = await #expect(throws: Problem.self) { try await workspace.start((8_080, mine.port)) }
        #expect(failure?.description.contains("--endpoint") == true)
        try await stage.startSidecar("api-2")
        failure = await #expect(throws: Problem.self) {
            try await workspace.start((8_080, mine.port), endpoint: self.nowhere)
        }
        #expect(failure?.description.contains("has 2 sidecars") == true)
        #expect(stage.records == [])
    }

    @Test func `another address than the environment's`() async throws {
        let stage = try await Stage()
        let mine = try await NamedServer("workspace")
        var real = ""
        stage.change {
            real = $0.tcp
            $0.tcp = self.nowhere.description
        }
        let workspace = try await Workspace(stage)
        let endpoint = real
        let (status, _) = try await workspace.start((8_080, mine.port), endpoint: try Flags.endpoint(endpoint))
        #expect(status.sidecars.first?.address == endpoint)
        #expect(await ask(stage.port()) == "workspace")
        // One that leads nowhere is refused, and the one before stays.
        await #expect(throws: Problem.self) {
            try await workspace.start((8_080, mine.port), endpoint: self.nowhere)
        }
        #expect(await eventually { await workspace.phase == .active })
        #expect(await workspace.status?.sidecars.first?.address == endpoint)
        #expect(await ask(stage.port()) == "workspace")
        try await workspace.stop()
    }
}
