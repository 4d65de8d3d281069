public import NIOCore
import Noise
public import Tunnel

/// The workspace's tunnel to one sidecar, with real sockets and a real clock: it dials, and dials again when a carrier is
/// lost.
///
/// Everything runs on one event loop: the tunnel's carriers, its streams and the sockets that the agent ties to them.
public final class TunnelClient {
    public protocol Delegate: AnyObject {
        /// Called on the event loop, never from within a call that the delegate makes.
        /// Events of streams that have an owner go to that alone.
        func tunnelClient(_ client: TunnelClient, did event: Initiator.Event)
        /// All events that there were have been told.
        func tunnelClientHasToldAll(_ client: TunnelClient)
        /// The attempt has failed: no address could be reached, or none answered. The next attempt begins after `delay`.
        func tunnelClient(_ client: TunnelClient, dialFailed failures: [DialFailure], retryIn delay: TimeAmount)
        /// The last carrier has closed. Another one is being dialled, or will be.
        func tunnelClientLostItsCarrier(_ client: TunnelClient)
    }

    public let eventLoop: any EventLoop
    public let owners = StreamOwners()
    private weak var delegate: (any Delegate)?
    private let tunnel: DialledTunnel
    private let streams: StreamDialler
    private let datagrams: DatagramDialler
    private var diallers: [any Dialler] { [self.streams, self.datagrams] }
    private let timestamps: TimestampFile?
    private let timer: DeadlineTimer
    private var network: NetworkWatch?
    private var pumpIsScheduled = false
    private var isDelivering = false

    /// - Parameter timestamps: where the last timestamp sent is stored; nil: it isn't stored.
    /// - Precondition: called on the event loop, as every method here.
    public init(
        _ configuration: Initiator.Configuration,
        addresses: [Address],
        timestamps: TimestampFile? = nil,
        eventLoop: any EventLoop,
        delegate: any Delegate
    ) {
        eventLoop.preconditionInEventLoop()
        self.eventLoop = eventLoop
        self.delegate = delegate
        var configuration = configuration
        if let kept = timestamps?.last { configuration.lastTimestamp = max(kept, configuration.lastTimestamp ?? kept) }
        self.timestamps = timestamps
        let random = RandomSource.system
        let initiator = Initiator(configuration, random: random, wallClock: Clock.wallClock)
        self.tunnel = DialledTunnel(initiator, eventLoop: eventLoop)
        self.timer = DeadlineTimer(eventLoop: eventLoop)
        let maxMessageSize = configuration.tunnel.maxMessageSize
        self.streams = StreamDialler(addresses, self.tunnel, maxMessageSize: maxMessageSize, random: random)
        self.datagrams = DatagramDialler(addresses, self.tunnel)
        self.tunnel.owner = self
        self.timer.onDeadline = { [weak self] in self?.deadline() }
    }

    deinit {
        self.network?.stop()
        for dialler in self.diallers {
            dialler.stop()
            dialler.closeCarriers()
        }
    }

    // MARK: For the agent

    /// Dials until `close` or `stop` is called, or until the connection ends with a reason not to come back.
    public func start() {
        for dialler in self.diallers { dialler.start() }
        let network = NetworkWatch(eventLoop: self.eventLoop) { [weak self] in self?.networkChanged() }
        self.network = network
        network.start()
    }

    /// Carriers dialled before this machine's addresses changed, or before it slept, may no longer work: start new handshakes
    /// at once.
    private func networkChanged() {
        guard !self.tunnel.initiator.isClosing else { return }
        self.tunnel.initiator.networkChanged()
        for dialler in self.diallers { dialler.networkChanged() }
    }

    /// Moves the tunnel to these addresses: carriers that were dialled for the earlier ones are closed.
    public func dial(instead addresses: [Address]) {
        for dialler in self.diallers { dialler.use(addresses) }
    }

    /// Runs the body on the connection, if there is one; what it queues is sent soon after.
    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        defer { self.schedulePump() }
        return self.tunnel.initiator.withConnection(body)
    }

    /// Ends the connection, if there is one, and stops dialling.
    public func close(_ code: ErrorCode) {
        self.stopDialling()
        self.endConnection(code)
        if !self.isClosing { self.closeCarriers() }
    }

    /// Ends this connection because of the peer's fault; another one is dialled after a pause.
    public func endConnection(_ code: ErrorCode) {
        self.tunnel.initiator.close(code, at: Clock.now())
        self.schedulePump()
    }

    /// Stops dialling and closes all carriers without CONNECTION_CLOSE: used after REPLACED and the like.
    public func stop() {
        self.stopDialling()
        self.closeCarriers()
    }

    private func stopDialling() {
        self.network?.stop()
        for dialler in self.diallers { dialler.stop() }
    }

    private func closeCarriers() { for dialler in self.diallers { dialler.closeCarriers() } }

    /// Whether the peer still has to be told that the connection has ended.
    public var isClosing: Bool { self.tunnel.initiator.isClosing }

    public var drops: DropCounters { self.tunnel.initiator.drops }
    public var handshakeAge: TimeAmount? { self.tunnel.initiator.handshakeAge(at: Clock.now()) }

    /// The address of the carrier in use, or of the one answered last; nil: none was answered.
    public var address: Address? {
        if self.tunnel.initiator.usesDatagrams, let address = self.datagrams.answeredAddress { return address }
        return self.streams.address ?? self.datagrams.answeredAddress
    }

    /// How many times the connection has moved from one carrier to another.
    public private(set) var carrierChanges: UInt64 = 0

    // MARK: Pumping

    /// Pumps once for all that happens in this turn of the loop, so that many small writes leave in one message.
    func schedulePump() {
        guard !self.pumpIsScheduled else { return }
        self.pumpIsScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.pumpIsScheduled = false
            self.pump()
        }
    }

    func pump() {
        let now = Clock.now()
        self.deliverEvents()
        // Stored before it is sent.
        if let timestamps, let last = self.tunnel.initiator.lastTimestamp, last != timestamps.last {
            timestamps.store(last)
        }
        self.streams.pump(at: now)
        self.datagrams.pump(at: now)
        self.deliverEvents()
        self.timer.arm(for: self.tunnel.initiator.nextDeadline, now: now)
    }

    private func deadline() {
        self.tunnel.initiator.handleDeadline(at: Clock.now())
        self.pump()
    }

    private func deliverEvents() {
        // The delegate may call back in and cause more events: the loop that already runs delivers them.
        guard !self.isDelivering else { return }
        self.isDelivering = true
        defer { self.isDelivering = false }
        var someWereTold = false
        while let event = self.tunnel.initiator.nextEvent() {
            someWereTold = true
            if case .connection(let event) = event, self.owners.tell(event) { continue }
            switch event {
            case .closeCarrier(let id): for dialler in self.diallers { dialler.giveUp(id) }
            case .answered(let id): for dialler in self.diallers { dialler.answered(id) }
            case .established: self.tunnel.errorPauses.connectionBegan(at: Clock.now())
            case .moved: self.carrierChanges += 1
            case .datagramsAreLost: self.streams.streamIsNeeded()
            case .connection(.ended(let end)): self.connectionEnded(end)
            case .resumed, .connection, .presharedKeysDiffer, .sidecarIsBusy: break
            }
            self.delegate?.tunnelClient(self, did: event)
        }
        if someWereTold { self.delegate?.tunnelClientHasToldAll(self) }
    }

    /// PROTOCOL, closing: some reasons tell the workspace not to come back, errors not to come back at once.
    private func connectionEnded(_ end: ConnectionEnd) {
        guard end.origin == .peer || end.origin == .local else { return }
        if end.origin == .peer, [.replaced, .revoked, .done].contains(end.code) { self.stopDialling() }
        self.tunnel.errorPauses.connectionEndedBadly(at: Clock.now())
    }
}

extension TunnelClient: DialledTunnel.Owner {
    func dialFailed(_ failures: [DialFailure], retryIn delay: TimeAmount) {
        self.delegate?.tunnelClient(self, dialFailed: failures, retryIn: delay)
    }

    func lostLastStream() { self.delegate?.tunnelClientLostItsCarrier(self) }
}
