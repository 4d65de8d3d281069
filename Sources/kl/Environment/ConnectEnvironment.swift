import ArgumentParser
import CommandText
import DockerEnvironment
import EnvironmentCatalog
import Environments
import InterceptModel
import InterceptProtocol
import KubernetesEnvironment
import LocalEnvironment
import WorkspaceAPI

struct ConnectEnvironment: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect",
        abstract: "Connect this workspace to an environment; a local one that is down is brought up first.",
        aliases: ["c", "conn"]
    )

    @Argument(help: "The environment, as kl env list has it.", completion: Completion.environments)
    var name: String?

    @OptionGroup var file: FileOption
    @OptionGroup var docker: DockerOptions
    @OptionGroup var kubernetes: KubernetesOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        let ways = [self.name, self.file.file, self.docker.docker, self.docker.dockerNetwork].compactMap(\.self)
        guard ways.count + (self.kubernetes.areNamed ? 1 : 0) <= 1 else {
            throw ValidationError(
                "An environment is named by NAME, --file, --docker, --docker-network, or --context and --namespace. Give one of them."
            )
        }
        guard self.kubernetes.sidecarImage.map({ StartRequest.isImage($0) }) ?? true else {
            throw ValidationError("--sidecar-image is an image's name, such as registry.example/kl-sidecar:0.1.0.")
        }
        try self.validateWay()
    }

    private func validateWay() throws {
        guard let address = self.kubernetes.nodeAddress else { return }
        guard self.kubernetes.way ?? .nodePort == .nodePort else {
            throw ValidationError("--node-address goes with --way node-port.")
        }
        guard (try? Flags.endpoint(Endpoint(host: address, port: 1).description)) != nil else {
            throw ValidationError("--node-address is a host's name or address, such as 192.0.2.7.")
        }
    }

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            try workspace.prepare()
            let reference = try await self.chosen(workspace)
            try await self.leavePrevious(for: reference, workspace)
            let report = StepReport(isOn: self.output.isText && !self.output.quiet)
            if reference.kind == .local, try !LocalEnvironment(reference).isSupervised {
                try Up.bring(reference, report)
            }
            let environment = try EnvironmentCatalog.environment(reference)
            try await environment.join(try workspace.member())
            var status: EnvironmentStatus
            do {
                status = try await EnvironmentStatus(reference, workspace)
            } catch {
                // A connection of before stays. Without one this is stored all the same, so that 'kl doctor' can look at it.
                if try workspace.connectedReference() == nil { try workspace.connect(to: reference) }
                throw error
            }
            try workspace.connect(to: reference)
            status.isConnected = true
            guard self.output.isText else { return try self.output.print(status, text: "") }
            report.line("Connected to environment \(reference.name.printable) (\(reference.kind.rawValue)).")
            report.line("Intercept one of its services with: kl intercept start")
        }
    }

    private func chosen(_ workspace: Workspace) async throws -> EnvironmentReference {
        var reference = try await self.named(workspace)
        if let flag = self.kubernetes.flagOfCluster, reference.kind != .kubernetes {
            let mend = self.kubernetes.sidecarImage.map {
                "Name it at each start: kl intercept start --sidecar-image \($0)"
            }
            throw Problem(.usage, "\(flag) is for environments of Kubernetes.", mend)
        }
        // Who connects again needn't name these again.
        let known = try workspace.knownReferences().first { $0.location == reference.location }?.kubernetes
        reference.kubernetes?.image = self.kubernetes.sidecarImage ?? known?.image
        reference.kubernetes?.way = self.kubernetes.way ?? known?.way
        reference.kubernetes?.nodeAddress = self.kubernetes.nodeAddress ?? known?.nodeAddress
        return reference
    }

    private func named(_ workspace: Workspace) async throws -> EnvironmentReference {
        let (kubernetes, image) = (self.kubernetes, self.kubernetes.sidecarImage)
        if kubernetes.areNamed {
            return try await KubernetesDiscovery.look(
                context: kubernetes.context,
                namespace: kubernetes.namespace,
                image: image
            )
        }
        if let name = self.name, let reference = try await KubernetesDiscovery.look(named: name, image: image) {
            return reference
        }
        if let file = self.file.file { return try Found.file(file, self.output) }
        if let selection = self.docker.selection { return try await DockerDiscovery.look(selection) }
        let found = try await Found(workspace)
        if let name = self.name {
            let environment = try found.named(name)
            guard environment.reference.kind == .local else { return try await Self.checked(environment.reference) }
            try Found.check(environment.reference.location, workspace)
            // Read the file again, to report its errors and warnings.
            return try Found.file(environment.reference.location, self.output)
        }
        let chosen = try Asking(self.output).environment(of: found.all)
        guard chosen.kind == .local else { return try await Self.checked(chosen) }
        try Found.check(chosen.location, workspace)
        return chosen
    }

    /// A cluster that was found without being asked is asked now.
    private static func checked(_ reference: EnvironmentReference) async throws -> EnvironmentReference {
        if let place = reference.kubernetes { try await KubernetesDiscovery.check(place) }
        return reference
    }

    /// Throws if this workspace still has intercepts in another environment, which it would leave.
    private func leavePrevious(for reference: EnvironmentReference, _ workspace: Workspace) async throws {
        guard let previous = try workspace.connectedReference(), previous.location != reference.location else { return }
        let own = try workspace.ownIntercepts().filter { $0.environment.location == previous.location }
        guard let first = own.first else { return }
        throw Problem(
            .failed,
            "you intercept '\(first.service)' in environment '\(previous.name)'",
            "Disconnect from it first: kl env disconnect"
        )
    }
}
