import Environments
import HostSupport
import InterceptModel
import NIOPosix

/// An environment of processes on this machine. Its state is in the folder `.kl/`; its supervisor runs the processes.
///
/// The supervisor may have died. The processes it started live on; then its last `state.json` is used.
public struct LocalEnvironment: Environment {
    public let reference: EnvironmentReference
    /// How long to wait for a sidecar that isn't ready, or for a supervisor that doesn't answer.
    let patience: Duration

    public init(_ reference: EnvironmentReference) { self.init(reference, patience: .seconds(10)) }

    init(_ reference: EnvironmentReference, patience: Duration) {
        self.reference = reference
        self.patience = patience
    }

    /// They run as long as the environment does.
    public var makesSidecars: Bool { false }

    /// Whether a supervisor runs.
    public var isSupervised: Bool {
        get throws {
            guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return false }
            return try LocalStatus.read(self.reference, in: folder)?.isSupervised ?? false
        }
    }

    /// Whether any process of the environment runs, even if only leftovers of a supervisor that is gone.
    public var isAlive: Bool {
        get throws {
            guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return false }
            return try LocalStatus.read(self.reference, in: folder) != nil
        }
    }

    /// What doesn't work in the environment itself, as a sentence: its folder can't be written, say.
    public var problem: String? {
        get async throws {
            try await Blocking.run {
                guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return nil }
                return SupervisorClient(folder: folder).problem
            }
        }
    }

    public func join(_ member: Member) async throws {
        try await Blocking.run { try self.introduce(member, in: try self.status()) }
    }

    public func services() async throws -> [Service] {
        try await Blocking.run { try self.status().services.map(\.service) }
    }

    public func sidecars(of service: String) async throws -> [SidecarLocation] {
        try await Blocking.run { try self.status().find(service).sidecars.compactMap(\.location) }
    }

    public func intercepts() async throws -> [InterceptRecord] {
        try await Blocking.run {
            guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return [] }
            let status = try LocalStatus.read(self.reference, in: folder)
            do {
                return Holdings(try RecordFile(in: folder).read().intercepts, status).all
            } catch {
                // The sidecars know best, and need no record.
                guard let status, status.isSupervised else { throw error }
                return Holdings([], status).all
            }
        }
    }

    public var recordProblem: Problem? {
        get async {
            try? await Blocking.run { () -> Problem? in
                guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return nil }
                do throws(Problem) { _ = try RecordFile(in: folder).read() } catch { return error }
                return nil
            }
        }
    }

    /// The record of this service's holders, whatever its sidecars report.
    func recorded(of service: String) async throws -> [InterceptRecord] {
        try await Blocking.run {
            guard let folder = try StateFolder.open(besideFile: self.reference.location) else { return [] }
            return try RecordFile(in: folder).read().intercepts.filter { $0.service == service }
        }
    }

    public func claim(_ record: InterceptRecord, options: SidecarOptions) -> any ServiceClaim {
        // The compose file says what sidecars it has.
        LocalClaim(environment: self, record: record)
    }

    /// A sidecar that ends is noticed by its tunnel, and the supervisor starts another by itself.
    public func changes() async -> AsyncStream<EnvironmentChange> { AsyncStream { $0.finish() } }

    // MARK: - Blocking parts

    func status() throws(Problem) -> LocalStatus {
        guard let folder = try StateFolder.open(besideFile: self.reference.location),
            let status = try LocalStatus.read(self.reference, in: folder)
        else { throw LocalStatus.notUp(self.reference) }
        return status
    }

    /// Makes sure that the sidecars accept the member's key.
    func introduce(_ member: Member, in status: LocalStatus) throws(Problem) {
        let record = RecordFile(in: status.folder)
        let isNew = try record.add(member)
        // Refresh for a known member, too: the process that added it may have been ended before the sidecars read the new
        // keys.
        let milliseconds = Int(self.patience / .milliseconds(1))
        let outcome = SupervisorClient(folder: status.folder).refresh(within: isNew ? milliseconds : milliseconds / 5)
        guard isNew, outcome != .refreshed else { return }
        // Otherwise the next attempt would take the member for known, and wouldn't fail.
        try record.removeMember(publicKey: member.publicKey)
        switch outcome {
        case .silent(let supervisor):
            throw Problem(
                .failed,
                "environment \(self.reference.name.quoted) hasn't let your key in: \(supervisor.sentence)"
            )
        case .failed(let reason):
            throw Problem(
                .failed,
                "the supervisor of environment \(self.reference.name.quoted) hasn't let your key in: \(reason)",
                "Try again; if that doesn't help, look into \(status.folder.supervisorLog)"
            )
        default: throw status.withoutSupervisor("your key is new to it, and nobody can let it in")
        }
    }
}

/// Runs work that waits for the disk or for sockets, off the threads that all `async` functions share.
enum Blocking {
    /// † One thread may wait for the supervisor for seconds; file accesses go on in the others.
    private static let threads = 4

    private static let pool: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: Self.threads)
        pool.start()
        return pool
    }()

    static func run<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await Self.pool.runIfActive(body)
    }
}
