import DockerEnvironment
public import Environments
import KubernetesEnvironment
import LocalEnvironment

/// The one place that knows all kinds of environments: makes one of its reference, and finds those that a user may mean.
public enum EnvironmentCatalog {
    public static func environment(_ reference: EnvironmentReference) throws -> any Environment {
        switch reference.kind {
        case .local: LocalEnvironment(reference)
        case .docker: try DockerEnvironment(reference)
        case .kubernetes: try KubernetesEnvironment(reference)
        }
    }

    /// The environments to choose from: compose files in this folder and above it, environments used before, what a Docker
    /// engine runs, and the contexts of `kubectl`.
    public static func find(from folder: String, known: [EnvironmentReference]) async -> [FoundEnvironment] {
        async let docker = DockerDiscovery.find(known: known)
        async let clusters = KubernetesDiscovery.find(known: known)
        let files = LocalDiscovery.find(from: folder, known: known)
        return files + (await docker) + (await clusters)
    }
}
