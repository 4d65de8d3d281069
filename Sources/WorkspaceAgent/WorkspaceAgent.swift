public import Carriers
public import InterceptProtocol
public import Logging
public import NIOCore
import NIOPosix
import Noise
public import Tunnel

/// The developer's half: dials a sidecar, asks it for the service's ports, and hands what comes to local servers.
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
        /// The local servers are told the client's address by a header in front of its bytes.
        public var proxyProtocol: ProxyProtocol?
        /// Take the service from whoever has it.
        public var takesOver = false
        /// Asks for nothing: has the sidecar give up what it holds for this key, after a crash.
        public var onlyReleases = false
        /// How long the first answer may take; nil: for ever.
        public var givesUpAfter: TimeAmount? = .seconds(10)
        /// The folder in which the key's last timestamps are kept, a file for each sidecar; nil: nowhere.
        public var timestamps: String?
        /// How many files and sockets this process may have open.
        public var descriptorLimit = 1_024
        /// What sockets towards local servers may have of them, where this process has other tunnels too; nil: it hasn't.
        public var localDescriptors: LocalDescriptors?
        /// What other people are told about whose intercept it is.
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
        /// The sidecar has said `started`.
        case ready(roundTripTime: TimeAmount?)
        /// It can't go on, in a sentence, and whether that is because someone else has the service.
        case failed(String, isBusy: Bool)
        /// It was told to end, and the sidecar has said how it went.
        case stopped(Stopped)
        /// It was told to end, and has, without a word of the sidecar's.
        case ended
    }

    public struct Stopped: Equatable, Sendable {
        public var total: UInt64
        public var passed: UInt64
        /// How many connections were open when it was told to end, and how many of them had no time to finish.
        public var open: UInt64
        public var reset: UInt64
    }

    /// What happens besides the outcomes.
    public enum Event: Equatable, Sendable {
        /// Something in the snapshot is another now.
        case changed
        case started(generation: UInt64)
        /// A list of ports that came after one that was acknowledged is refused: that one is still in force.
        case refused(generation: UInt64, ControlMessage.Failure)
        /// New connections reach the original, as was asked.
        case withdrawn
        /// Somebody else has the service now. What is open goes on.
        case takenOver(by: String)
        case carrierLost
    }

    public enum ProbeResult: Equatable, Sendable {
        /// A port without an answer isn't among them.
        case answered([ControlMessage.Port: Answer])
        /// The sidecar doesn't know probes.
        case unsupported
        case failed(String)
    }

    public let eventLoop: any EventLoop
    /// Called on the event loop. Set it before `start`.
    public var onEvent: ((Event) -> Void)?
    var configuration: Configuration
    let log: Logger
    /// For what the sidecar causes.
    let peerLog: Logger
    private(set) var client: TunnelClient?
    private var onOutcome: ((Outcome) -> Void)?
    var connections: [StreamID: LocalConnection] = [:]
    private(set) lazy var flows = LocalFlows(agent: self)
    let descriptors: DescriptorShare
    let dialTurns: DialTurns
    var decoder = ControlMessageDecoder()
    var controlPause: Scheduled<Void>?
    /// The sidecar has said `started` once.
    var isStarted = false
    var isEnding = false
    var isOver: Bool { self.onOutcome == nil }
    var owed = OwedStart()
    var acknowledged: UInt64?
    var lastAcknowledged: UInt64?
    var pendingProbe: PendingProbe?
    var lastProbe: UInt64 = 0
    /// Who took the service over, or has it, once someone has.
    var newHolder: String?
    /// Who has it, and since when (RFC 3339, UTC), if the outcome was that it is busy.
    public var holder: (name: String, since: String?)?
    private var startTimeout: Scheduled<Void>?
    private var endTimeout: Scheduled<Void>?
    /// The kind of carrier that the tunnel has gone by since the last time that it changed.
    var lastCarrier: String?
    var lastDialFailure: String?
    var dialFailureSaidAt = NIODeadline.now()
    var keysDiffer = false
    var sidecarIsBusy = false
    var presence = Presence.live
    var counts = Counts()
    /// Of connections that are over.
    var earlier = Counts()
    var missingServers: Set<ControlMessage.Port> = []
    var missingServersNews = RareNews()
    var askedPorts: AskedPorts
    /// Of the list of ports that was sent last: rises also with lists that come of what the local servers do.
    var sentGeneration: UInt64
    /// The last list came of that, and the sidecar hasn't answered it.
    var awaitsOwnList = false
    var serverLook: (due: NIODeadline, timer: Scheduled<Void>)?
    private var openAtEnd: UInt64 = 0
    /// How many the sidecar cut since it was told to end.
    var cutAtEnd: UInt64 = 0

    /// A close may have to be told more than once.
    private static let closeTime = TimeAmount.seconds(1)

    /// - Precondition: called on the event loop, as every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) {
        let descriptors = configuration.localDescriptors ?? LocalDescriptors(limit: configuration.descriptorLimit)
        var configuration = configuration
        let streams = min(configuration.tunnel.tunnel.maxStreamsFromPeer, UInt64(descriptors.mostForOne))
        configuration.tunnel.tunnel.maxStreamsFromPeer = streams
        self.configuration = configuration
        self.descriptors = DescriptorShare(of: descriptors)
        self.dialTurns = DialTurns(on: eventLoop)
        self.eventLoop = eventLoop
        self.log = configuration.log
        self.askedPorts = configuration.askedPorts(doubted: [])
        self.sentGeneration = configuration.generation
        self.peerLog = configuration.log.limited(by: LogShare())
    }

    /// Begins. The outcomes come on the event loop: `ready` at most once, then one that ends.
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

    /// Nothing more comes of it.
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

    /// The close leaves with this turn of the loop: the program must not end before it.
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
            self.fail("The sidecar is there, and has more to do than it can. Try again.")
        } else if let lastDialFailure = self.lastDialFailure,
            !lastDialFailure.hasSuffix(TunnelClient.silenceOverDatagrams)
        {
            self.fail("\(lastDialFailure). Check the address, and that the sidecar runs.")
        } else {
            self.fail(self.silence)
        }
    }

    /// Why there is no connection, in a clause, if anything is known of that.
    var problem: String? {
        if self.client?.withConnection({ $0.hasCarrier }) ?? false { return nil }
        return self.keysDiffer ? "the preshared keys differ" : self.lastDialFailure
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

    /// Withdraws the intercept, lets open connections end within the drain time, and is done.
    ///
    /// - Parameter patience: how long to wait for a carrier, if there is none now, to say so.
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

    /// The sidecar resets what is open after the drain time, and says so; some more for the way there and back.
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

    /// Ends at once, and tells nobody here: open connections are reset.
    public func abandon() {
        self.onOutcome = nil
        self.onEvent = nil
        self.isEnding = true
        self.client?.close(.done)
        self.release()
    }

    // MARK: Another list of ports

    /// Asks for another list of ports, or for the same one in another way. The event `started` tells that it is in force,
    /// `refused` that the one before still is, at the sidecar; then that is to be asked for again, as another generation.
    public func update(_ change: (inout Configuration) -> Void) {
        let before = Set(self.configuration.targets.mappings)
        change(&self.configuration)
        let now = Set(self.configuration.targets.mappings)
        // The sidecar sends a flow's header again when it hears that the flow isn't known: then it leads where it should.
        if before != now { self.flows.endAll() }
        self.client?.dial(instead: self.configuration.sidecar)
        // What leads elsewhere hasn't been tried.
        let kept = before.intersection(now).map(\.service)
        self.missingServers.formIntersection(kept)
        self.askedPorts = self.configuration.askedPorts(doubted: self.askedPorts.refusing.intersection(kept))
        self.sentGeneration = max(self.sentGeneration + 1, self.configuration.generation)
        self.awaitsOwnList = false
        self.acknowledged = nil
        // Another generation isn't what the sidecar asked for: it waits for no interval.
        if self.client?.withConnection({ $0.isActive }) ?? false, !self.isEnding { self.sendStart() }
        self.lookAtServersInTime()
        self.tell(.changed)
    }

    /// The sidecar is found there from now on.
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
        self.configuration.targets[ControlMessage.Port(service: header.servicePort, transport: header.transport)]
    }

    func streamIsDone(_ stream: StreamID) {
        self.connections[stream] = nil
        _ = self.client?.withConnection { $0.release(stream) }
        self.failIfTakenOver()
    }
}
