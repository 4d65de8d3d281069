import Carriers
import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import Tunnel
import WorkspaceAPI
import WorkspaceAgent

/// One service that this workspace intercepts or mirrors: the state machine, the agents for its sidecars, and the callbacks for
/// changes.
///
/// Starting, changing, watching and stopping it are in extensions.
@DaemonLoop
final class Intercept {
    struct Key: Hashable, Sendable {
        var kind: EnvironmentReference.Kind
        var location: String
        var service: String

        init(_ environment: EnvironmentReference, _ service: String) {
            self.kind = environment.kind
            self.location = environment.location
            self.service = service
        }
    }

    let environment: any Environment
    let identity: WorkspaceIdentity
    let log: Logger
    /// The last request that was granted, or is being tried.
    var request: StartRequest
    var targets: LocalTargets
    var generation: UInt64
    let since: String
    private(set) var phaseSince: String
    private(set) var machine: InterceptMachine
    var replicas: [Replica] = []
    /// Counts of agents that were removed.
    var earlier = WorkspaceAgent.Counts()
    /// Whether the record may say that the service is ours.
    var mayBeClaimed = false
    /// The ports of a claim of which no more is known than its record.
    var portsOnRecord: [ServicePort] = []
    /// Gives the claim of a failed intercept back.
    private var leaving: Task<Void, Never>?
    let changes = Changes()
    /// The status may have changed.
    var onChange: (() -> Void)?
    /// The environment has ended, and the intercept with it.
    var onGone: (() -> Void)?
    var look = Look()

    init(
        _ request: StartRequest,
        targets: LocalTargets,
        environment: any Environment,
        identity: WorkspaceIdentity,
        machine: InterceptMachine = .starting,
        generation: UInt64 = 1,
        since: String = UTCTime.now.rfc3339,
        log: Logger
    ) {
        self.request = request
        self.targets = targets
        self.environment = environment
        self.identity = identity
        self.machine = machine
        self.generation = generation
        self.since = since
        self.phaseSince = since
        // Limited, since a sidecar may change its state, and so cause log lines, as often as it likes.
        self.log = log.limited(by: LogShare())
    }

    var service: String { self.request.service }
    var key: Key { Key(self.request.environment, self.service) }

    /// Whether it has tunnels, or will have some.
    var isLive: Bool { !self.machine.isOver }

    // MARK: Events

    func handle(_ event: InterceptMachine.Event) {
        let before = self.machine
        let action = self.machine.handle(event)
        if self.machine.phase != before.phase {
            self.phaseSince = UTCTime.now.rfc3339
            var metadata: Logger.Metadata = ["service": "\(self.service)"]
            if let reason = self.machine.reason { metadata["reason"] = "\(reason)" }
            self.log.info("\(self.machine.phase.rawValue)", metadata: metadata)
        }
        switch action {
        case .nothing, .tell: break
        case .watch: self.lookAgain(in: .zero)
        case .rest:
            self.followEnvironment()
            self.lookSeldom()
        case .leave: self.look.stop()
        }
        if self.machine.phase == .failed, before.phase != .failed { self.letGo() }
        self.tell()
    }

    /// Called after every change that may affect the sidecars' states.
    func refresh() {
        let states = self.replicas.map { ($0.location.name, $0.state(self.generation)) }
        self.handle(.replicas(Dictionary(states, uniquingKeysWith: { first, _ in first })))
    }

    private func tell() {
        self.changes.happened()
        self.onChange?()
    }

    func replicaChanged(_ replica: Replica, _ change: Replica.Change) {
        guard self.replicas.contains(where: { $0 === replica }) else { return }
        switch change {
        case .any: self.refresh()
        case .lost:
            self.refresh()
            if self.isLive, self.machine.phase != .pending { self.lookAgain(in: .zero) }
        case .takenOver(let holder): self.handle(.takenOver(by: holder))
        case .ended: self.replicaEnded(replica)
        }
    }

    private func replicaEnded(_ replica: Replica) {
        // During a start, `waitUntilAcknowledged` sees the outcome itself, and throws it as the start's error.
        if self.isLive, self.machine.phase != .pending, case .failed(let failure) = replica.outcome {
            if case .busy(let holder, _, _) = failure {
                self.handle(.takenOver(by: holder ?? "someone else"))
            } else {
                self.handle(.turnedAway("\(failure)"))
            }
        }
        self.refresh()
        if self.isLive, self.machine.phase != .pending { self.lookAgain(in: .zero) }
    }

    // MARK: Agents

    private static let descriptorLimit = Process.raiseDescriptorLimit()
    /// Shared by all intercepts, so that none takes descriptors that the others need.
    private static let localDescriptors = LocalDescriptors(limit: Intercept.descriptorLimit)

    /// † Sidecars that are dialled at the same time share what leads to them: an API server, a node.
    private static let moreForEach = TimeAmount.milliseconds(200)

    /// Makes an agent for a sidecar, which dials it from now on. Nil: the sidecar's key or address can't be read.
    func connect(_ location: SidecarLocation, takesOver: Bool = false, onlyReleases: Bool = false) -> Replica? {
        let made = Replica(location, self.addresses(of: location)) { key, addresses in
            var configuration = WorkspaceAgent.Configuration(
                tunnel: .init(staticKey: self.identity.staticKey, responder: key),
                sidecar: addresses,
                targets: self.targets.named(as: location),
                label: self.identity.label,
                log: self.log
            )
            self.apply(self.request, to: &configuration)
            configuration.kind = self.request.kind
            configuration.timestamps = self.identity.timestamps
            configuration.descriptorLimit = Self.descriptorLimit
            configuration.localDescriptors = Self.localDescriptors
            configuration.generation = self.generation
            configuration.takesOver = takesOver
            configuration.onlyReleases = onlyReleases
            // After the start, the agent dials as long as the intercept is wanted.
            if self.machine.phase != .pending {
                configuration.givesUpAfter = nil
            } else if let time = configuration.givesUpAfter {
                configuration.givesUpAfter = time + Self.moreForEach * Int64(self.replicas.count)
            }
            if onlyReleases {
                configuration.givesUpAfter = .seconds(3)
                configuration.drainSeconds = 0
            }
            return configuration
        }
        guard let made else { return nil }
        self.replicas.append(made)
        made.start { [weak self] replica, change in self?.replicaChanged(replica, change) }
        return made
    }

    func apply(_ request: StartRequest, to configuration: inout WorkspaceAgent.Configuration) {
        configuration.onUnavailable = request.onUnavailable
        configuration.probes = request.probes
        // No client waits for what a mirror's local server answers.
        configuration.drainSeconds = request.kind == .mirror ? 0 : request.drainSeconds
        configuration.proxyProtocol = request.proxyProtocol
    }

    /// Those of replicas that serve one of our ports at least.
    func concerned(_ locations: [SidecarLocation]) -> [SidecarLocation] {
        locations.filter { !self.targets.named(as: $0).mappings.isEmpty }
    }

    /// The addresses to dial. --endpoint is the first replica's address only, not that of a replica that came later.
    func addresses(of location: SidecarLocation) -> [TunnelClient.Address] {
        let isFirst = self.replicas.allSatisfy { $0.location.name == location.name }
        return location.addresses(
            by: self.request.carrier,
            at: isFirst ? self.request.endpoint : nil,
            through: self.environment.relay(to: location)
        )
    }

    /// The replica's counts are kept.
    func remove(_ replica: Replica) {
        self.replicas.removeAll { $0 === replica }
        replica.agent.abandon()
        var counts = replica.agent.snapshot.counts
        counts.open = 0
        self.earlier = self.earlier + counts
    }

    /// After a failure: tells sidecars that still give their connections to this workspace to stop, and releases the claim.
    private func letGo() {
        for replica in self.replicas where replica.outcome == nil { replica.agent.shutDown() }
        guard self.mayBeClaimed else { return }
        self.mayBeClaimed = false
        let claim = self.claim
        self.leaving = Task {
            await self.lookEnded()
            try? await claim.release()
        }
    }

    /// Waits until a failed intercept has given its claim back, which would otherwise end a newer claim of the same key.
    func hasLeft() async { await self.leaving?.value }

    /// Releases everything. An abandoned agent comes to no outcome, so the replicas are removed: a stop that still waits
    /// for their outcomes, because it was asked for while the environment ended, finds that there are none.
    func dispose() {
        self.onChange = nil
        self.onGone = nil
        self.look.stop()
        for replica in self.replicas { self.remove(replica) }
        if self.isLive { self.handle(.stop) } else { self.changes.happened() }
    }

    // MARK: Local servers

    /// Service ports whose local server didn't take the last connection.
    var missingServers: Set<ServicePort> {
        var missing: Set<ServicePort> = []
        for replica in self.replicas {
            let atReplica = replica.agent.snapshot.missingServers
            guard !atReplica.isEmpty else { continue }
            for port in self.targets.mappings.map(\.port) {
                if let own = replica.location.ownPort(of: port), atReplica.contains(own) { missing.insert(port) }
            }
        }
        return missing
    }

    // MARK: Status

    var counts: WorkspaceAgent.Counts {
        self.replicas.reduce(self.earlier) { $0 + $1.agent.snapshot.counts }
    }

    var status: InterceptStatus {
        var status = InterceptStatus(
            environment: self.request.environment,
            service: self.service,
            phase: self.machine.phase,
            since: self.since
        )
        status.kind = self.request.kind
        status.reason = self.machine.reason
        status.phaseSince = self.phaseSince
        status.generation = self.generation
        status.mappings = self.request.mappings
        status.missingServers = self.missingServers.sorted()
        if self.request.kind == .intercept { status.onUnavailable = self.request.onUnavailable }
        let counts = self.counts
        status.open = counts.open
        status.total = counts.total
        status.passed = counts.passed
        if self.request.kind == .mirror { status.behind = counts.behind }
        status.bytesIn = counts.bytesIn
        status.bytesOut = counts.bytesOut
        let isStarting = self.machine.phase == .pending
        status.sidecars = self.replicas.map { $0.status(self.generation, isStarting: isStarting) }
        return status
    }

    /// As the request is now. It stays the same claim where another process took it, or this one with other ports.
    var claim: any ServiceClaim { self.claim(for: self.request) }

    func claim(for request: StartRequest) -> any ServiceClaim {
        self.environment.claim(self.record(of: request), options: request.sidecarOptions)
    }

    private func record(of request: StartRequest) -> InterceptRecord {
        var record = InterceptRecord(
            service: self.service,
            holder: self.identity.member,
            since: self.since,
            ports: request.mappings.map {
                .init(service: $0.port.number, transport: $0.port.transport, target: $0.target.description)
            },
            kind: request.kind
        )
        record.refuses = request.onUnavailable == .refuse ? true : nil
        return record
    }
}
