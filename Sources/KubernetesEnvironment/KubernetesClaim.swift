import Environments
import InterceptModel

/// Not made yet: another change replaces this file.
struct KubernetesClaim: ServiceClaim {
    let environment: KubernetesEnvironment
    var record: InterceptRecord
    let options: SidecarOptions

    init(_ environment: KubernetesEnvironment, _ record: InterceptRecord, _ options: SidecarOptions) {
        self.environment = environment
        self.record = record
        self.options = options
    }

    private var lacking: Problem {
        Problem(.failed, "services of a Kubernetes namespace can't be intercepted yet")
    }

    func take(force: Bool) async throws -> ClaimResult { throw self.lacking }
    func sidecars() async throws -> [SidecarLocation] { throw self.lacking }
    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState { throw self.lacking }
    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] { throw self.lacking }
    func release() async throws { throw self.lacking }
}

extension KubernetesEnvironment {
    func currentSidecars(of service: String) async throws -> [SidecarLocation] { [] }

    func currentRecords() async throws -> [InterceptRecord] { [] }
}
