public import Carriers
public import InterceptModel
public import InterceptProtocol
public import Logging
public import NIOCore
import NIOPosix
import Noise
public import Tunnel

/// The agent on the developer's machine: dials a sidecar, asks for the service's ports, and passes connections to local servers.
///
/// Lives on one event loop, as do the tunnel, its carrier and all local sockets.
public final class WorkspaceAgent {
    public struct Configuration: Sendable {
        public var tunnel: Initiator.Configuration
        /// In order of preference.
        public var sidecar: [TunnelClient.Address]
        public var targets: LocalTargets
        /// Rises with each change of the list of ports.
        public var generation: UInt64 = 1
        public var onUnavailable: OnUnavailable = .original
        public var probes: Probes = .original
        public var drainSeconds = 10
        /// Local servers get each client's address in a PROXY header before its bytes.
        public var proxyProtocol: ProxyProtocol?
        /// Take the service over if another workspace holds it.
        public var takesOver = false
        /// Ask for nothing, and only have the sidecar release what it holds for this key. Used after a crash.
        public var onlyReleases = false
        /// How long to wait for the first answer; nil: forever.
        public var givesUpAfter: TimeAmount? = .seconds(10)
        /// The folder for the key's last handshake timestamps, one file for each sidecar; nil: they aren't kept.
        public var timestamps: String?
        /// The process's limit of open files and sockets.
        public var descriptorLimit = 1_024
        /// The budget for sockets to local servers, if the process has several tunnels; nil: this agent has its own.
        public var localDescriptors: LocalDescriptors?
        /// The workspace's name as shown to other people.
        public var label: String
        public var log: Logger

        public init(
            tunnel: Initiator.Configuration,
            sidecar: [TunnelClient.Address],
            targets: LocalTargets,
            label: String,
            log: Logger
        ) {
            self.tunnel = tunnel
            self.sidecar = sidecar
            self.targets = targets
            self.label = label
            self.log = log
        }
    }

    public enum Outcome: Equatable, Sendable {
        /// The sidecar has sent `started` for the first time.
        case ready(roundTripTime: TimeAmount?)
        /// The agent can't go on. The reason is a sentence; `isBusy` means that another workspace holds the service.
        case failed(String, isBusy: Bool)
        /// The agent was told to end, and the sidecar has confirmed it.
        case stopped(Stopped)
        /// The agent was told to end, and has ended without the sidecar's confirmation.
        case ended
    }

    public struct Stopped: Equatable, Sendable {
        public var total: UInt64
        public var passed: UInt64
        /// How many connections were open when the agent was told to end, and how many of these were reset.
        public var open: UInt64
        public var reset: UInt64
    }

    /// Events besides the outcomes.
    public enum Event: Equatable, Sendable {
        /// The snapshot has changed.
        case changed
        case started(generation: UInt64)
        /// The sidecar refused a later list of ports; the acknowledged one before it stays in force.
        case refused(generation: UInt64, ControlMessage.Failure)
        /// New connections reach the original, as the agent asked.
        case withdrawn
        /// Another workspace has taken the service over. Open connections continue.
        case takenOver(by: String)
        case carrierLost
    }

    public enum ProbeResult: Equatable, Sendable {
        /// Ports without an answer are left out.
        case answered([ServicePort: Answer])
        /// The sidecar doesn't know probes.
        case unsupported
        case failed(String)
    }

    public let eventLoop: any EventLoop
    /// Called on the event loop. Set it before `start`.
    public var onEvent: ((Event) -> Void)?
    var configuration: Configuration
    let log: Logger
    /// For events that the sidecar causes; rate-limited.
    let peerLog: Logger
    private(set) var client: TunnelClient?
    private var onOutcome: ((Outcome) -> Void)?
    var connections: [StreamID: LocalConnection] = [:]
    private(set) lazy var flows = LocalFlows(agent: self)
    let descriptors: DescriptorShare
    let dialTurns: DialTurns
    let keepAlive: KeepAliveRounds
    var decoder = ControlMessageDecoder()
    var controlPause: Scheduled<Void>?
    /// The sidecar has sent `started` at least once.
    var isStarted = false
    var isEnding = false
    var isOver: Bool { self.onOutcome == nil }
    var owed = OwedStart()
    var acknowledged: UInt64?
    var lastAcknowledged: UInt64?
    var pendingProbe: PendingProbe?
    var lastProbe: UInt64 = 0
    /// The workspace that took the service over, if one has.
    var newHolder: String?
    /// If the outcome was busy: the workspace that holds the service, and since when (RFC 3339, UTC).
    public var holder: (name: String, since: String?)?
    private var startTimeout: Scheduled<Void>?
    private var endTimeout: Scheduled<Void>?
    /// The kind of carrier at the last change.
    var lastCarrier: String?
    /// Of the last round through the sidecar's addresses, until a connection is there.
    var dialFailures: [DialFailure] = []
    var dialFailureSaidAt = NIODeadline.now()
    var keysDiffer = false
    var sidecarIsBusy = false
    var presence = Presence.live
    var counts = Counts()
    /// The counts of connections that have ended.
    var earlier = Counts()
    var missingServers: Set<ServicePort> = []
    var missingServersNews = RareNews()
    var askedPorts: AskedPorts
    /// The generation of the list sent last. Lists sent because a local server came or went raise it, too.
    var sentGeneration: UInt64
    /// The last list was sent because a local server came or went, and the sidecar hasn't answered it yet.
    var awaitsOwnList = false
    var serverLook: (due: NIODeadline, timer: Scheduled<Void>)?
    private var openAtEnd: UInt64 = 0
    /// How many connections the sidecar has cut since the agent was told to end.
    var cutAtEnd: UInt64 = 0

    /// The tunnel client keeps running this long, as the close may have to be sent more than once.
    private static let closeTime = TimeAmount.seconds(1)

    /// - Precondition: called on the event loop, like every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) {
        let descriptors = configuration.localDescriptors ?? LocalDescriptors(limit: configuration.descriptorLimit)
        var configuration = configuration
        let streams = min(configuration.tunnel.tunnel.maxStreamsFromPeer, UInt64(descriptors.mostForOne))
        configuration.tunnel.tunnel.maxStreamsFromPeer = streams
        self.configuration = configuration
        self.descriptors = DescriptorShare(of: descriptors)
        self.dialTurns = DialTurns(on: eventLoop)
        self.keepAlive = KeepAliveRounds(on: eventLoop)
        self.eventLoop = eventLoop
        self.log = configuration.log
        self.askedPorts = configuration.askedPorts(doubted: [])
        self.sentGeneration = configuration.generation
        self.peerLog = configuration.log.limited(by: LogShare())
    }

    /// Starts the agent. Outcomes are reported on the event loop: `ready` at most once, then one final outcome.
    public func start(_ onOutcome: @escaping (Outcome) -> Void) {
        self.onOutcome = onOutcome
        let client = TunnelClient(
            self.configuration.tunnel,
            addresses: self.configuration.sidecar,
            timestamps: self.timestampFile(),
            eventLoop: self.eventLoop,
            delegate: self
        )
        self.client = client
        self.startTimeout = self.configuration.givesUpAfter.map { limit in
            self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] in self?.noAnswer() }
        }
        client.start()
    }

    private func timestampFile() -> TimestampFile? {
        guard let folder = self.configuration.timestamps else { return nil }
        do throws(TimestampFile.Failure) {
            return try TimestampFile(folder: folder, responder: self.configuration.tunnel.responder)
        } catch {
            self.log.debug("handshakes' timestamps aren't kept: \(error)")
            return nil
        }
    }

    func finish(_ outcome: Outcome) {
        guard let onOutcome = self.onOutcome else { return }
        self.onOutcome = nil
        self.release()
        onOutcome(outcome)
    }

    /// Cancels all timers, ends all flows and connections, and stops the tunnel client after `closeTime`.
    private func release() {
        self.startTimeout?.cancel()
        self.endTimeout?.cancel()
        self.forgetOwed()
        self.endProbe(.failed("the tunnel ended"))
        self.endServerLooks()
        self.flows.endAll()
        for connection in self.connections.values { connection.streamEnded() }
        self.connections.removeAll()
        guard let client = self.client else { return }
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.closeTime) { client.stop() }
    }

    func fail(_ reason: String, isBusy: Bool = false) {
        self.client?.close(.done)
        self.finishAfterClose(.failed(reason, isBusy: isBusy))
    }

    /// The close is sent in this turn of the loop, so the outcome, after which the program may exit, comes a little later.
    private func finishAfterClose(_ outcome: Outcome) {
        guard self.client?.isClosing ?? false else { return self.finish(outcome) }
        self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) { [weak self] in self?.finish(outcome) }
    }

    private func noAnswer() {
        if self.keysDiffer {
            self.fail(
                "The preshared keys differ: give both sides the same --preshared-key-file, or neither of them one."
            )
        } else if self.sidecarIsBusy {
            self.fail("The sidecar is overloaded. Try again.")
        } else if let last = self.dialFailures.last, !last.isSilenceOverDatagrams {
            self.fail("\(self.dialFailures.text). Check the address, and that the sidecar runs.")
        } else {
            self.fail(self.silence)
        }
    }

    /// Why there is no connection, as a clause, if known.
    var problem: String? {
        if self.client?.withConnection({ $0.hasCarrier }) ?? false { return nil }
        if self.keysDiffer { return "the preshared keys differ" }
        return self.dialFailures.isEmpty ? nil : self.dialFailures.text
    }

    private var silence: String {
        let seconds = (self.configuration.givesUpAfter?.nanoseconds ?? 0) / 1_000_000_000
        let places = self.configuration.sidecar.map(\.abbreviated).joined(separator: " and ")
        let isBlocked = self.configuration.sidecar.contains(where: \.isDatagrams) ? "or the network drops UDP, " : ""
        return """
            No answer from the sidecar at \(places) for \(seconds) s. Either the address isn't a sidecar's, or its \
            public key is another one, or it doesn't accept the key \(self.configuration.tunnel.staticKey.publicKey) (its \
            --peer), or this machine's clock is wrong, \(isBlocked)or it speaks another version.
            """
    }

    // MARK: Ending

    /// Withdraws the intercept, lets open connections finish within the drain time, and ends.
    ///
    /// - Parameter patience: how long to wait for a carrier, if there is none, to tell the sidecar.
    public func shutDown(patience: TimeAmount = .zero) {
        guard !self.isEnding else { return }
        self.isEnding = true
        self.startTimeout?.cancel()
        self.openAtEnd = UInt64(self.connections.count)
        let hasCarrier = self.client?.withConnection { $0.hasCarrier } ?? false
        guard self.isStarted, hasCarrier || patience > .zero else { return self.closeAndEnd(.ended) }
        self.log.info("ending: new connections reach the original", metadata: ["open": "\(self.connections.count)"])
        if hasCarrier { self.sendStop() } else { self.end(within: patience) }
    }

    /// The sidecar resets what is still open after the drain time and answers `stopped`; 3 s more allow for the way there
    /// and back.
    func sendStop() {
        self.send(.stop)
        self.end(within: .seconds(Int64(self.configuration.drainSeconds) + 3))
    }

    private func end(within limit: TimeAmount) {
        self.startTimeout?.cancel()
        self.endTimeout?.cancel()
        self.endTimeout = self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] in
            self?.closeAndEnd(.ended)
        }
    }

    func closeAndEnd(_ outcome: Outcome) {
        self.client?.close(.done)
        self.finishAfterClose(outcome)
    }

    func stopped(total: UInt64, passed: UInt64) {
        guard self.isEnding else { return }
        self.log.info("ended", metadata: ["total": "\(total)", "passed": "\(passed)"])
        self.counts.total = total
        self.counts.passed = passed
        self.counts.open = 0
        let sum = self.earlier + self.counts
        let reset = self.cutAtEnd
        self.closeAndEnd(
            .stopped(.init(total: sum.total, passed: sum.passed, open: max(self.openAtEnd, reset), reset: reset))
        )
    }

    /// Ends at once without reporting an outcome; open connections are reset.
    public func abandon() {
        self.onOutcome = nil
        self.onEvent = nil
        self.isEnding = true
        self.client?.close(.done)
        self.release()
    }

    // MARK: Another list of ports

    /// Asks for another list of ports, or for the same list with other options. `started` reports that it is in force. `refused`
    /// reports that the sidecar keeps the one before; the caller must then ask for that one again, as a new generation.
    public func update(_ change: (inout Configuration) -> Void) {
        let before = Set(self.configuration.targets.mappings)
        change(&self.configuration)
        let now = Set(self.configuration.targets.mappings)
        // Told that a flow is unknown, the sidecar sends its header again; the flow then leads to its new target.
        if before != now { self.flows.endAll() }
        self.client?.dial(instead: self.configuration.sidecar)
        // Ports with a new target haven't been tried yet.
        let kept = before.intersection(now).map(\.port)
        self.missingServers.formIntersection(kept)
        self.askedPorts = self.configuration.askedPorts(doubted: self.askedPorts.refusing.intersection(kept))
        self.sentGeneration = max(self.sentGeneration + 1, self.configuration.generation)
        self.awaitsOwnList = false
        self.acknowledged = nil
        // This `start` isn't caused by the sidecar, so it isn't delayed.
        if self.client?.withConnection({ $0.isActive }) ?? false, !self.isEnding { self.sendStart() }
        self.lookAtServersInTime()
        self.tell(.changed)
    }

    /// From now on the sidecar is dialled at these addresses.
    public func dial(instead addresses: [TunnelClient.Address]) {
        self.configuration.sidecar = addresses
        self.client?.dial(instead: addresses)
        self.tell(.changed)
    }

    func tell(_ event: Event) { self.onEvent?(event) }

    func startedFirst(_ roundTripTime: TimeAmount?) {
        self.startTimeout?.cancel()
        self.onOutcome?(.ready(roundTripTime: roundTripTime))
    }

    // MARK: Intercepted connections

    func target(for header: ConnectionHeader) -> DialTarget? {
        self.configuration.targets[ServicePort(header.servicePort, header.transport)]
    }

    func streamIsDone(_ stream: StreamID) {
        self.connections[stream] = nil
        _ = self.client?.withConnection { $0.release(stream) }
        self.failIfTakenOver()
    }
}
