public import Carriers
public import InterceptModel
import InterceptProtocol
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
        /// As a mirror it gets a copy of what clients send, and takes no client away from the side that answers.
        public var kind: HoldingKind = .intercept
        /// Rises with each change of the list of ports.
        public var generation: UInt64 = 1
        public var onUnavailable: OnUnavailable = .original
        public var probes: Probes = .original
        public var drainSeconds = 10
        /// Local servers get each client's address in a PROXY header before its bytes.
        public var proxyProtocol: ProxyProtocol?
        /// Take ports over from workspaces that intercept them, until this list is in force or refused.
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

    public let eventLoop: any EventLoop
    /// Called on the event loop. Set it before `start`.
    public var onEvent: ((Event) -> Void)?
    var configuration: Configuration
    let log: Logger
    /// For events that the sidecar causes; rate-limited.
    let peerLog: Logger
    private(set) var client: TunnelClient?
    private var onOutcome: ((Outcome) -> Void)?
    var life = Life.starting(giveUp: nil)
    private(set) lazy var flows = LocalFlows(agent: self)
    let descriptors: DescriptorShare
    let dialTurns: DialTurns
    let keepAlive: KeepAliveRounds
    var control = ControlInput()
    var owed = OwedStart()
    var lists: SentLists
    var probing = Probing()
    var servers: LocalServers
    var counters = Counters()
    var trouble = DialTrouble()
    var presence = Presence.live
    /// The kind of carrier at the last change.
    var lastCarrier: String?

    struct ControlInput {
        var decoder = ControlMessageDecoder()
        /// The sidecar's turn is over: its further messages wait until then.
        var pause: Scheduled<Void>?
    }

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
        self.servers = LocalServers(configuration.askedPorts(doubted: []))
        self.lists = SentLists(configuration.generation)
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
        let giveUp = self.configuration.givesUpAfter.map { limit in
            self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] () -> Void in
                self?.noAnswer(within: limit)
            }
        }
        self.life = .starting(giveUp: giveUp)
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

    /// Ends at once without reporting an outcome; open connections are reset.
    public func abandon() {
        self.onOutcome = nil
        self.onEvent = nil
        self.client?.close(.done)
        self.release()
    }

    func finish(_ outcome: Outcome) {
        guard !self.isOver else { return }
        self.release()
        self.onOutcome?(outcome)
        self.onOutcome = nil
    }

    /// Cancels all timers, ends all flows and connections, and stops the tunnel client after `closeTime`.
    private func release() {
        self.life.end()
        self.forgetOwed()
        self.endProbe(.failed("the tunnel ended"))
        self.endServerLooks()
        self.flows.endAll()
        guard let client = self.client else { return }
        client.owners.endAll()
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.closeTime) { client.stop() }
    }

    /// The close is sent in this turn of the loop, so the outcome, after which the program may exit, comes a little later.
    func close(_ outcome: Outcome) {
        self.client?.close(.done)
        guard self.client?.isClosing ?? false else { return self.finish(outcome) }
        self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) { [weak self] in self?.finish(outcome) }
    }

    func tell(_ event: Event) { self.onEvent?(event) }

    func tellReady() {
        let roundTrip = self.client?.withConnection { $0.measuredRoundTripTime } ?? nil
        self.onOutcome?(.ready(roundTripTime: roundTrip))
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
        self.servers.changed(self.configuration, kept: before.intersection(now).map(\.port))
        self.lists.changed(to: self.configuration.generation)
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

    // MARK: Intercepted connections

    /// And the streams of UDP flows.
    var openConnections: Int { self.client?.owners.count ?? 0 }

    func target(for header: ConnectionHeader) -> DialTarget? {
        self.configuration.targets[ServicePort(header.servicePort, header.transport)]
    }

    func streamIsDone(_ stream: StreamID) {
        self.client?.release(stream)
        self.endIfTakenOver()
    }
}
