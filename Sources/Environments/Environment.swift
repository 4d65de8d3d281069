/// The place where services run, as the CLI and the daemon see it, independent of its kind.
///
/// The methods may wait for files or for another program. They throw an `EnvironmentError`, whose text is for people.
public protocol Environment: Sendable {
    var reference: EnvironmentReference { get }

    /// In the environment's own order. Throws `.notUp` if nothing runs.
    func services() async throws -> [Service]

    /// Lets a workspace connect to the environment's sidecars. Returns once those that run accept its key.
    func join(_ member: Member) async throws

    /// Makes sure that each replica of the service has a sidecar that runs and accepts this public key, and returns their
    /// locations. Waits until they accept it.
    func prepareSidecars(of service: String, accepting member: Member) async throws -> [SidecarLocation]

    /// The sidecars' current locations. Asked again when a sidecar doesn't answer, since its address and key may have
    /// changed.
    func sidecars(of service: String) async throws -> [SidecarLocation]

    /// The intercepts of all workspaces.
    func intercepts() async throws -> [InterceptRecord]

    /// Records that this service is intercepted, unless another key has claimed it and `force` is false. Of several claims
    /// at once one wins. A claim of the same key is replaced, as far as the record can be changed: a container's labels can't.
    func claim(_ record: InterceptRecord, force: Bool) async throws -> ClaimResult

    /// Removes the claim if it is this key's; otherwise does nothing.
    func release(service: String, publicKey: String) async throws

    // MARK: Environments that make sidecars for an intercept

    /// Whether sidecars exist for the time of an intercept only, and are made by the intercepting workspace.
    var makesSidecars: Bool { get }

    /// As above, with options for the sidecars that are made.
    func claim(_ record: InterceptRecord, options: SidecarOptions, force: Bool) async throws -> ClaimResult

    /// As above, with options for the sidecars that are made; the member must hold the claim.
    func prepareSidecars(
        of service: String,
        accepting member: Member,
        options: SidecarOptions
    ) async throws
        -> [SidecarLocation]

    /// Restores what has been lost or has changed since the service was claimed: the record, if it went with its sidecar,
    /// and a sidecar for each replica. Called now and then, and after each of `changes`.
    func maintain(_ record: InterceptRecord, options: SidecarOptions) async throws -> Maintained

    /// Yields an element whenever the environment's answers may have changed.
    func changes() async -> AsyncStream<EnvironmentChange>

    /// The environment's last answer seems to be outdated: read anew before the next one.
    func doubt() async
}

extension Environment {
    public var makesSidecars: Bool { false }

    public func claim(_ record: InterceptRecord, options: SidecarOptions, force: Bool) async throws -> ClaimResult {
        try await self.claim(record, force: force)
    }

    public func prepareSidecars(
        of service: String,
        accepting member: Member,
        options: SidecarOptions
    ) async throws -> [SidecarLocation] {
        try await self.prepareSidecars(of: service, accepting: member)
    }

    public func maintain(_ record: InterceptRecord, options: SidecarOptions) async throws -> Maintained {
        .sidecars(try await self.sidecars(of: record.service))
    }

    public func changes() async -> AsyncStream<EnvironmentChange> { AsyncStream { $0.finish() } }

    public func doubt() async {}
}

public enum EnvironmentChange: Equatable, Sendable {
    case any
    /// This sidecar's replica is being ended. Within some hundredths of a second nothing in its network will be able to
    /// reach a client.
    case ending(service: String, sidecar: String)
}

public enum Maintained: Equatable, Sendable {
    case sidecars([SidecarLocation])
    /// Another workspace has the service now.
    case heldBy(InterceptRecord)
}

public enum ClaimResult: Equatable, Sendable {
    case claimed
    /// With `force`: the record of the previous holder.
    case takenOver(from: InterceptRecord)
    case heldBy(InterceptRecord)
}
