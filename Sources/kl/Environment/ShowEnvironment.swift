import ArgumentParser
import EnvironmentCatalog
import Environments
import InterceptModel
import InterceptProtocol
import LocalEnvironment
import WorkspaceAPI

struct ShowEnvironment: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show the connected environment, its services with ports and state, and active intercepts.",
        aliases: ["st", "stat"]
    )

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            var status = EnvironmentStatus.notConnected
            if let reference = try workspace.connectedReference() {
                status = try await EnvironmentStatus(reference, workspace)
            }
            try self.output.print(status, text: status.text)
        }
    }
}

struct DisconnectEnvironment: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disconnect",
        abstract: "Stop this workspace's intercepts, then disconnect. The environment stays up.",
        aliases: ["d", "disc"]
    )

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            _ = Interrupt.descriptor
            let workspace = try Workspace(self.output)
            guard let reference = try workspace.connectedReference() else { throw Problem.notConnected }
            try workspace.prepare()
            let report = StepReport(isOn: self.output.isText && !self.output.quiet)
            // An environment that is gone can't be asked; the daemon's intercepts in it are stopped anyway.
            var kinds: [String: HoldingKind] = [:]
            for one in try workspace.ownIntercepts() where one.environment.location == reference.location {
                kinds[one.service] = one.kind
            }
            if let environment = try? EnvironmentCatalog.environment(reference),
                let list = try? await workspace.intercepts(in: environment)
            {
                for one in list.holders where one.isOwn && one.through == nil { kinds[one.service] = one.kind }
            }
            if !kinds.isEmpty {
                let requests = kinds.keys.sorted().map { StopRequest(environment: reference, service: $0) }
                try StopIntercept.stop(requests, workspace, self.output.quieted)
                for (name, kind) in kinds.sorted(by: { $0.key < $1.key }) {
                    report.done("stopped the \(kind.rawValue) of \(name)", nil)
                }
            }
            try? workspace.runningDaemon()?.shutDownIfIdle()
            try workspace.disconnect()
            report.line("Disconnected from environment \(reference.name.printable).")
            if !self.output.isText { try self.output.print(EnvironmentStatus.notConnected, text: "") }
        }
    }
}

extension EnvironmentStatus {
    /// The environment's current status, also if it is down or its file is broken.
    init(_ reference: EnvironmentReference, _ workspace: Workspace) async throws {
        let isConnected = try workspace.connectedReference()?.location == reference.location
        self.init(isConnected: isConnected, services: [], holders: [])
        self.environment = reference.name
        self.kind = reference.kind.rawValue
        self.location = reference.location
        do {
            let environment = try EnvironmentCatalog.environment(reference)
            let services = try await environment.services()
            let holders = try await workspace.intercepts(in: environment).holders
            self.state = "up"
            if reference.kind == .local { self.reason = try await LocalEnvironment(reference).problem }
            self.holders = holders
            self.services = services.map { service in
                Service(
                    name: service.name,
                    state: service.state.rawValue,
                    reason: service.reason,
                    replicas: service.replicas,
                    ports: service.ports.map {
                        .init(
                            port: $0.published,
                            target: $0.target,
                            name: $0.name,
                            transport: ($0.transport ?? .tcp).rawValue
                        )
                    },
                    interceptedBy: holders.first {
                        $0.service == service.name && $0.kind == .intercept && $0.phase != .failed
                    }?.workspace,
                    sidecarEntries: service.sidecarEntries
                )
            }
        } catch let error as Problem where error.code == .notUp {
            self.state = "down"
        } catch let error as Problem where error.code == .file {
            self.state = "broken"
            self.reason = error.description
        }
    }
}
