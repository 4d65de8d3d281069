public import HostSupport
public import InterceptModel

/// The place where services run, as the CLI and the daemon see it, independent of its kind.
///
/// The methods may wait for files or for another program. They throw a `Problem`, whose text is for people.
public protocol Environment: Sendable {
    var reference: EnvironmentReference { get }

    /// Whether sidecars exist for the time of an intercept only. It decides what people are told, and nothing else.
    var makesSidecars: Bool { get }

    /// In the environment's own order. Throws `.notUp` if nothing runs.
    func services() async throws -> [Service]

    /// Lets a workspace connect to the environment's sidecars. Returns once those that run accept its key.
    func join(_ member: Member) async throws

    /// The current locations of the service's sidecars, whoever intercepts it.
    func sidecars(of service: String) async throws -> [SidecarLocation]

    /// The intercepts of all workspaces.
    func intercepts() async throws -> [InterceptRecord]

    /// Why `intercepts` tells only what the sidecars report, without a record. Nil: there is nothing wrong with the record, or the
    /// environment has none.
    var recordProblem: Problem? { get async }

    /// Programs that are started from now on to reach the environment get these variables of the user's shell, in place of this
    /// process's own. They may hold secrets, and are kept in memory alone.
    func use(variables: [String: String]) async

    /// A workspace's claim to a service, as this record says. Nothing is claimed before `take(force:)`, but a claim that an
    /// earlier process took stays taken.
    func claim(_ record: InterceptRecord, options: SidecarOptions) -> any ServiceClaim

    /// A way to a sidecar that this process opens itself, in place of the location's command; nil: there is none.
    func relay(to sidecar: SidecarLocation) -> StreamRelay?

    /// Yields an element whenever a claim's answers may have changed. Ends where the environment can't tell: then claims
    /// are looked at now and then.
    func changes() async -> AsyncStream<EnvironmentChange>
}

extension Environment {
    public var recordProblem: Problem? { get async { nil } }

    public func relay(to sidecar: SidecarLocation) -> StreamRelay? { nil }

    public func use(variables: [String: String]) async {}
}

public enum EnvironmentChange: Equatable, Sendable {
    case any
    /// This sidecar's replica is being ended. Within some hundredths of a second nothing in its network will be able to
    /// reach a client.
    case ending(service: String, sidecar: String)
}
