import InterceptModel

/// One workspace's claim to one service: the record because of which others are refused, and the sidecars that serve it.
///
/// It holds no state of its own: the environment has the record, so that a claim outlives the process that took it.
public protocol ServiceClaim: Sendable {
    /// Records that the service is intercepted, unless another key has it and `force` is false. Of several claims at once
    /// one wins. A claim of the same key is replaced, as far as the record can be changed: a container's labels can't.
    func take(force: Bool) async throws -> ClaimResult

    /// Makes sure that each replica has a sidecar that runs and accepts the holder's key, and returns their locations. Waits
    /// until they accept it. The claim must have been taken.
    func sidecars() async throws -> [SidecarLocation]

    /// Says how the claim is now, and restores what was lost since it was taken, as far as the environment doesn't do that
    /// by itself. Called now and then, and after each of the environment's changes. Throws `.notUp` if nothing runs.
    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState

    /// Which of these sidecars are gone for good, so that their answers needn't be waited for.
    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation]

    /// Removes the claim if it is this key's; otherwise does nothing.
    func release() async throws
}

public enum ClaimResult: Equatable, Sendable {
    case claimed
    /// With `force`: the record of the previous holder.
    case takenOver(from: InterceptRecord)
    case heldBy(InterceptRecord)
}

public enum ReconcileOccasion: Sendable {
    /// All is as it should be, as far as the sidecars say.
    case routine
    /// A sidecar can't be reached: the service may be another workspace's by now.
    case incomplete
    /// Still so after several looks: the environment may have missed a change, and must read anew.
    case doubtful
}

public enum ClaimState: Equatable, Sendable {
    /// The service's sidecars, and no others.
    case sidecars([SidecarLocation])
    /// None is ready; the environment starts those anew that there were.
    case restarting
    /// Another workspace has the service now.
    case lost(to: InterceptRecord)
    /// The environment has ended, and the record went with it.
    case ended
}

/// Options for sidecars that are made for an intercept.
public struct SidecarOptions: Hashable, Sendable {
    /// The container image; nil: this version's own.
    public var image: String?
    /// Ports that must be divertible, in addition to those that the environment knows.
    public var ports: [ServicePort]

    public init(image: String? = nil, ports: [ServicePort] = []) {
        self.image = image
        self.ports = ports
    }
}
