import ArgumentParser
import Environments

struct EnvironmentCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "env",
        abstract: "Find environments, bring them up, connect to one.",
        subcommands: [
            ListEnvironments.self, ConnectEnvironment.self, ShowEnvironment.self, BringUp.self, TakeDown.self,
            DisconnectEnvironment.self,
        ],
        aliases: ["e", "environment"]
    )
}

/// Selects an environment on a Docker engine.
struct DockerOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("A compose project, on the engine that docker reaches here.", valueName: "project")
    )
    var docker: String?

    @Option(
        help: ArgumentHelp("The containers of a network, on the engine that docker reaches here.", valueName: "network")
    )
    var dockerNetwork: String?

    var selection: DockerPlace.Selection? {
        self.docker.map { .project($0) } ?? self.dockerNetwork.map { .network($0) }
    }
}

extension KubernetesPlace.Way: ExpressibleByArgument {}

/// Selects a namespace of a cluster.
struct KubernetesOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("A context of kubectl's; without it the current one.", valueName: "context")
    )
    var context: String?

    @Option(
        help: ArgumentHelp(
            "A namespace of that context's cluster; without it the context's own.",
            valueName: "namespace"
        )
    )
    var namespace: String?

    @Option(
        help: ArgumentHelp("The image of sidecars in this cluster, for each start that names none.", valueName: "image")
    )
    var sidecarImage: String?

    @Option(
        help: ArgumentHelp(
            "How sidecars are dialled: pod-address, or by a Service for each pod, node-port or load-balancer.",
            valueName: "way"
        )
    )
    var way: KubernetesPlace.Way?

    @Option(
        help: ArgumentHelp("With --way node-port: the host at which the nodes' ports are dialled.", valueName: "host")
    )
    var nodeAddress: String?

    /// A flag that is for clusters alone, if one is given.
    var flagOfCluster: String? {
        self.sidecarImage.map { _ in "--sidecar-image" } ?? self.way.map { _ in "--way" }
            ?? self.nodeAddress.map { _ in "--node-address" }
    }

    var areNamed: Bool { self.context != nil || self.namespace != nil }
}

/// Selects a local environment.
struct FileOption: ParsableArguments {
    @Option(
        name: .joinedShortAndLong("f"),
        help: ArgumentHelp("The compose file of a local environment.", valueName: "compose.yaml"),
        completion: .file(extensions: ["yaml", "yml"])
    )
    var file: String?
}
