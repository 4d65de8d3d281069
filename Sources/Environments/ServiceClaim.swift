public import InterceptModel

/// One workspace's claim to ports of one service: the record by which other workspaces are refused, and the sidecars that serve
/// it.
///
/// It holds no state of its own: the environment has the record, so that a claim outlives the process that took it.
public protocol ServiceClaim: Sendable {
    /// Records that this key holds these ports, beside other keys' records, unless another key intercepts one of them and
    /// `force` is false. Of several simultaneous claims to one port one wins. A mirror conflicts with no other holding, but a
    /// service has at most 16 mirrors. An earlier claim of the same key and kind is replaced, except where the record is a sidecar
    /// of an earlier version, whose one holder can't be changed. If the earlier claim is of the other kind, that is an error,
    /// `Problem.held(_:as:)`.
    func take(force: Bool) async throws -> ClaimResult

    /// Makes sure that each replica has a sidecar that runs and accepts the holder's key, and returns their locations. Waits
    /// until they accept it. The claim must have been taken. A replica that serves none of the ports needs none.
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
    /// With `force`: the record of the previous holder, or of the first one if there were several.
    case takenOver(from: InterceptRecord)
    case heldBy(InterceptRecord)
}

public enum ReconcileOccasion: Equatable, Sendable {
    /// All is as it should be, as far as the sidecars say.
    case routine
    /// A sidecar can't be reached: the service may be another workspace's by now.
    case incomplete
    /// A start's sidecars are dialled, and those of these names don't answer: they may have forgotten the key.
    case unanswered(by: Set<String>)
    /// Still so after several looks: the environment may have missed a change, and must read anew.
    case doubtful
}

public enum ClaimState: Equatable, Sendable {
    /// The service's sidecars, and no others.
    case sidecars([SidecarLocation])
    /// The sidecars that run. Another replica, which gets clients, has none, for this reason.
    case partly([SidecarLocation], Problem)
    /// None is ready; the environment starts those anew that there were.
    case restarting
    /// Another workspace has one of the ports now.
    case lost(to: InterceptRecord)
    /// The environment has ended, and the record went with it.
    case ended
}

extension Problem {
    /// A key holds a service in one way at a time.
    public static func held(_ service: String, as kind: HoldingKind) -> Problem {
        Problem(
            .failed,
            kind == .mirror
                ? "you get copies of traffic to \(service.quoted) already" : "you intercept \(service.quoted) already",
            "Stop that first: kl intercept stop \(service.shellQuoted)"
        )
    }

    public static func tooManyMirrors(of service: String) -> Problem {
        Problem(
            .failed,
            "\(HoldingKind.mirrorsAtMost) workspaces get copies of traffic to \(service.quoted), and that is the most",
            "Ask one of them to stop."
        )
    }
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
