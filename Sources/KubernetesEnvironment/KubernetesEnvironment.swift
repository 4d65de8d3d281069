import CommandText
public import Environments
public import HostSupport
public import InterceptModel
import SidecarInterface

/// Services of a Kubernetes namespace. Each pod of which a workspace holds ports gets an ephemeral container with a sidecar, which
/// serves all workspaces. Nothing is restarted, and the developer's own rights are enough.
public struct KubernetesEnvironment: Environment {
    public let reference: EnvironmentReference
    /// With what the user wants of sidecars.
    let place: KubernetesPlace
    let model: KubernetesModel

    /// - Throws: the stored reference lacks the cluster.
    public init(_ reference: EnvironmentReference) throws(Problem) {
        guard let place = reference.kubernetes else {
            throw Problem(
                .failed,
                "environment \(reference.name.quoted) was written down without its cluster",
                "Connect again: kl env connect \(reference.name.shellQuoted)"
            )
        }
        self.reference = reference
        self.place = place
        self.model = KubernetesModel.of(place)
    }

    public var makesSidecars: Bool { true }

    /// A workspace's key is admitted to a sidecar when the workspace claims ports, so there is nothing to announce.
    public func join(_ member: Member) async throws {}

    public func services() async throws -> [Service] {
        try await self.asking {
            async let services = self.model.visibleServices()
            let pods = try await self.model.pods()
            let (objects, isWhole) = try await services
            // Of the other pods it isn't known whether a Service selects them.
            return KubernetesServices(objects, isWhole ? pods : pods.filter { $0.isSelected(byAnyOf: objects) }).all
        }
    }

    public func sidecars(of service: String) async throws -> [SidecarLocation] {
        try await self.asking { try await self.currentSidecars(of: service) }
    }

    public func intercepts() async throws -> [InterceptRecord] {
        try await self.asking { try await self.currentRecords() }
    }

    public var recordProblem: Problem? { get async { await self.currentRecordProblem() } }

    public func use(variables: [String: String]) async { await self.model.client.use(variables: variables) }

    public func claim(_ record: InterceptRecord, options: SidecarOptions) -> any ServiceClaim {
        KubernetesClaim(self, record, options)
    }

    public func relay(to sidecar: SidecarLocation) -> StreamRelay? {
        guard let container = sidecar.container, let port = (try? Flags.endpoint(sidecar.tcp))?.port else { return nil }
        // By its port, since an earlier sidecar may still run in the same pod.
        let dial = [AdmissionExchange.program, "dial", "--to", "127.0.0.1:\(port)"]
        return self.model.client.relay(pod: sidecar.name, container: container, dial)
    }

    public func changes() async -> AsyncStream<EnvironmentChange> { await self.model.changes() }

    // MARK: Parts

    /// Makes a `Problem` of what the API server refuses.
    func asking<Value>(_ body: () async throws -> Value) async throws -> Value {
        do {
            return try await body()
        } catch let error as APIFailure {
            throw error.problem(self.model.client.words)
        }
    }

    var isNotUp: Problem {
        Problem(
            .notUp,
            "namespace \(self.model.place.namespace.quoted) of '\(self.model.place.context.printable)' has no services"
        )
    }
}
