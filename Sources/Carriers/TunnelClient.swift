import HostSupport
public import NIOCore
import NIOPosix
import Noise
public import Tunnel

/// The workspace's tunnel to one sidecar, with real sockets and a real clock: it dials, and dials again when a carrier is
/// lost.
///
/// Everything runs on one event loop: the tunnel's carriers, its streams and the sockets that the agent ties to them.
public final class TunnelClient {
    public protocol Delegate: AnyObject {
        /// Called on the event loop, never from within a call that the delegate makes.
        func tunnelClient(_ client: TunnelClient, did event: Initiator.Event)
        /// All events that there were have been told.
        func tunnelClientHasToldAll(_ client: TunnelClient)
        /// The attempt has failed: no address could be reached, or none answered. The next attempt begins after `delay`.
        func tunnelClient(_ client: TunnelClient, dialFailed reason: String, retryIn delay: TimeAmount)
        /// The last carrier has closed. Another one is being dialled, or will be.
        func tunnelClientLostItsCarrier(_ client: TunnelClient)
    }

    public let eventLoop: any EventLoop
    let random: RandomSource
    weak var delegate: (any Delegate)?
    var initiator: Initiator
    private let maxMessageSize: Int
    private let timestamps: TimestampFile?
    private let timer: DeadlineTimer
    private var carriers: [StreamCarrier] = []
    private var nextCarrier: UInt64 = 1
    /// Dials the sidecar's UDP addresses; nil: it has none.
    private var datagrams: DatagramDialler?
    private var network: NetworkWatch?
    private(set) var isWanted = false
    /// A carrier is being dialled, or a failed command is being ended.
    private var isDialling = false
    /// The current round through the addresses, until a carrier is answered or all addresses have failed.
    private var attempt: DialAttempt?
    private var order: DialOrder
    /// The address of the carrier that was answered last.
    private var answeredAddress: Address?
    private(set) var pauses = DialPauses()
    private var redial: Scheduled<Void>?
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
        self.order = DialOrder(addresses.filter { !$0.isDatagrams })
        self.delegate = delegate
        self.random = .system
        self.maxMessageSize = configuration.tunnel.maxMessageSize
        var configuration = configuration
        if let kept = timestamps?.last { configuration.lastTimestamp = max(kept, configuration.lastTimestamp ?? kept) }
        self.timestamps = timestamps
        self.initiator = Initiator(configuration, random: self.random, wallClock: Clock.wallClock)
        self.timer = DeadlineTimer(eventLoop: eventLoop)
        self.timer.onDeadline = { [weak self] in self?.deadline() }
        self.datagrams = DatagramDialler(addresses, client: self)
    }

    deinit {
        self.network?.stop()
        self.datagrams?.closeSockets()
    }

    // MARK: For the agent

    /// Dials until `close` or `stop` is called, or until the connection ends with a reason not to come back.
    public func start() {
        self.isWanted = true
        self.dial()
        self.datagrams?.start()
        self.watchNetwork()
    }

    /// Carriers dialled before this machine's addresses changed, or before it slept, may no longer work: start new handshakes
    /// at once.
    private func watchNetwork() {
        let network = NetworkWatch(eventLoop: self.eventLoop) { [weak self] in self?.networkChanged() }
        self.network?.stop()
        self.network = network
        network.start()
    }

    private func networkChanged() {
        guard self.isWanted, !self.initiator.isClosing else { return }
        self.initiator.networkChanged()
        self.datagrams?.reopen()
        // A second stream beside the first: the one that is answered last stays.
        guard !self.isDialling, self.carriers.count < Self.streamsAtOnce else { return }
        self.redial?.cancel()
        self.redial = nil
        self.pauses.startOver()
        self.dial(beside: true)
    }

    private static let streamsAtOnce = 2

    /// Moves the tunnel to these addresses: carriers that were dialled for the earlier ones are closed.
    public func dial(instead addresses: [Address]) {
        let streams = addresses.filter { !$0.isDatagrams }
        let places = addresses.filter(\.isDatagrams)
        if places != self.datagrams?.addresses ?? [] {
            self.datagrams?.stop()
            self.datagrams = DatagramDialler(places, client: self)
            if self.isWanted { self.datagrams?.start() }
            self.schedulePump()
        }
        guard streams != self.order.addresses else { return }
        self.order = DialOrder(streams)
        self.attempt = nil
        self.answeredAddress = nil
        guard self.isWanted else { return }
        self.redial?.cancel()
        self.redial = nil
        self.pauses.startOver()
        for carrier in self.carriers { self.drop(carrier.id) }
        self.dial()
    }

    /// Runs the body on the connection, if there is one; what it queues is sent soon after.
    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        defer { self.schedulePump() }
        return self.initiator.withConnection(body)
    }

    /// Ends the connection, if there is one, and stops dialling.
    public func close(_ code: ErrorCode) {
        self.isWanted = false
        self.redial?.cancel()
        self.network?.stop()
        self.initiator.close(code, at: Clock.now())
        self.schedulePump()
        if !self.initiator.isClosing { self.dropCarriers() }
    }

    /// Ends this connection because of the peer's fault; another one is dialled after a pause.
    public func endConnection(_ code: ErrorCode) {
        self.initiator.close(code, at: Clock.now())
        self.schedulePump()
    }

    /// Stops dialling and closes all carriers without CONNECTION_CLOSE: used after REPLACED and the like.
    public func stop() {
        self.isWanted = false
        self.redial?.cancel()
        self.network?.stop()
        self.dropCarriers()
    }

    /// Whether the peer still has to be told that the connection has ended.
    public var isClosing: Bool { self.initiator.isClosing }

    public var drops: DropCounters { self.initiator.drops }
    public var handshakeAge: TimeAmount? { self.initiator.handshakeAge(at: Clock.now()) }

    /// The address of the carrier in use, or of the one answered last; nil: none was answered.
    public var address: Address? {
        if self.initiator.usesDatagrams, let address = self.datagrams?.answeredAddress { return address }
        return self.carriers.lazy.compactMap(\.address).first ?? self.answeredAddress ?? self.datagrams?.answeredAddress
    }

    /// How many times the connection has moved from one carrier to another.
    public private(set) var carrierChanges: UInt64 = 0

    // MARK: Dialling

    private func dial(beside: Bool = false) {
        self.redial = nil
        guard self.isWanted, !self.isDialling, self.carriers.isEmpty || beside, !self.order.addresses.isEmpty else {
            return
        }
        self.isDialling = true
        self.attempt = DialAttempt(self.order.attempt(at: Clock.now()))
        self.dialNext()
    }

    /// Dials the attempt's next address, or ends the attempt.
    private func dialNext() {
        guard self.isWanted, let address = self.attempt?.next() else { return self.attemptFailed() }
        self.isDialling = true
        switch address {
        case .tcp(let host, let port): self.connect(address, host, port)
        case .command(let words): self.run(address, words)
        case .udp: self.dialNext()
        }
    }

    private func connect(_ address: Address, _ host: String, _ port: Int) {
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        self.bootstrap
            .connectTimeout(self.attempt?.isLast ?? true ? DialAttempt.lastTimeout : DialAttempt.timeout)
            .carrierSocketOptions()
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try bound.value.attach(channel, to: address) }
            }
            .connect(host: host, port: port)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                guard let self, case .failure(let error) = result else { return }
                let reason = "\(address) can't be reached: \(Failure.describe(error))"
                self.failed(address, .unreachable, reason)
            }
    }

    private func run(_ address: Address, _ words: [String]) {
        let (process, socket): (FilterProcess, CInt)
        do throws(HostError) {
            (process, socket) = try FilterProcess.start(words, on: self.eventLoop)
        } catch {
            return self.failed(address, .unreachable, "\(error)")
        }
        let bound = NIOLoopBound((self, process), eventLoop: self.eventLoop)
        self.bootstrap
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let (client, process) = bound.value
                    try client.attach(channel, to: address, by: process)
                }
            }
            .withConnectedSocket(socket)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                guard case .failure(let error) = result else { return }
                process.end { _ in
                    guard let self else { return }
                    let reason = "'\(address.abbreviated)' can't be talked to: \(Failure.describe(error))"
                    self.failed(address, .unreachable, reason)
                }
            }
    }

    private var bootstrap: ClientBootstrap {
        ClientBootstrap(group: self.eventLoop)
            .channelOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
            .channelOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
    }

    private func attach(_ channel: any Channel, to address: Address, by command: FilterProcess? = nil) throws {
        let carrier = StreamCarrier(
            id: self.takeCarrierID(),
            channel: channel,
            framer: MessageFramer(role: .initiator, maxMessageSize: self.maxMessageSize),
            address: address,
            command: command,
            at: Clock.now()
        )
        try channel.pipeline.syncOperations.addHandler(StreamCarrierHandler(carrier: carrier, owner: self))
    }

    func takeCarrierID() -> CarrierID {
        defer { self.nextCarrier += 1 }
        return CarrierID(self.nextCarrier)
    }

    /// The address failed: the next one is dialled.
    private func failed(_ address: Address, _ kind: DialAttempt.Failure, _ reason: String) {
        self.order.failed(address, at: Clock.now())
        self.attempt?.failed(kind, reason)
        self.dialNext()
    }

    private func attemptFailed() {
        self.isDialling = false
        guard self.isWanted else {
            self.attempt = nil
            return
        }
        // `dial(instead:)` has discarded the attempt for new addresses.
        guard let attempt = self.attempt else { return self.dial() }
        self.attempt = nil
        switch self.pauses.afterFailure(isSilent: attempt.isSilent, random: self.random) {
        case .soon(let pause): self.dial(in: pause)
        case .later(let pause, let step):
            self.dial(in: pause)
            // While datagrams carry the tunnel, a byte stream is still dialled, as a standby, but its failure isn't reported.
            guard !self.isConnected else { return }
            self.delegate?.tunnelClient(self, dialFailed: attempt.reason, retryIn: step)
        }
    }

    /// Limits the wait for an answer on this carrier, so that the remaining addresses get their turn.
    private func limitWait(for carrier: StreamCarrier) {
        guard let attempt = self.attempt, !attempt.isLast else { return }
        let limit = carrier.command == nil ? DialAttempt.answerTimeout : DialAttempt.commandAnswerTimeout
        self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self, weak carrier] in
            guard let self, let carrier, self.attempt != nil else { return }
            carrier.fault = "gives no answer"
            self.drop(carrier.id)
        }
    }

    /// Whether there is a connection with a carrier and a live peer.
    var isConnected: Bool {
        switch self.initiator.connection {
        case .some(let connection): connection.hasCarrier && connection.presence == .live
        case .none: false
        }
    }

    private func answered(_ id: CarrierID) {
        self.datagrams?.answered(id)
        guard let carrier = self.carriers.first(where: { $0.id == id }) else { return }
        self.pauses.startOver()
        self.attempt = nil
        guard let address = carrier.address else { return }
        self.answeredAddress = address
        self.order.answered(address)
    }

    private func dial(in delay: TimeAmount) {
        self.redial?.cancel()
        self.redial = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in self?.dial() }
    }

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
        if let timestamps, let last = self.initiator.lastTimestamp, last != timestamps.last { timestamps.store(last) }
        for carrier in self.carriers {
            carrier.pump { self.initiator.writeNext(into: &$0, for: carrier.id, at: now) }
        }
        self.datagrams?.pump(at: now)
        self.deliverEvents()
        self.timer.arm(for: self.initiator.nextDeadline, now: now)
    }

    private func deadline() {
        self.initiator.handleDeadline(at: Clock.now())
        self.pump()
    }

    private func deliverEvents() {
        // The delegate may call back in and cause more events: the loop that already runs delivers them.
        guard !self.isDelivering else { return }
        self.isDelivering = true
        defer { self.isDelivering = false }
        var someWereTold = false
        while let event = self.initiator.nextEvent() {
            someWereTold = true
            switch event {
            case .closeCarrier(let id):
                let carrier = self.carriers.first { $0.id == id }
                if let carrier, carrier.command != nil, carrier.fault == nil { carrier.fault = "gives no answer" }
                self.drop(id)
                self.datagrams?.closed(id)
            case .answered(let id): self.answered(id)
            case .established: self.pauses.connectionBegan(at: Clock.now())
            case .moved: self.carrierChanges += 1
            case .datagramsAreLost: self.redialNow()
            case .connection(.ended(let end)): self.connectionEnded(end)
            case .resumed, .connection, .presharedKeysDiffer, .sidecarIsBusy: break
            }
            self.delegate?.tunnelClient(self, did: event)
        }
        if someWereTold { self.delegate?.tunnelClientHasToldAll(self) }
    }

    /// A byte stream is needed now: dial at once instead of waiting for the pause after the last failure.
    private func redialNow() {
        guard self.redial != nil else { return }
        self.redial?.cancel()
        self.pauses.startOver()
        self.dial()
    }

    /// PROTOCOL, closing: some reasons tell the workspace not to come back, errors not to come back at once.
    private func connectionEnded(_ end: ConnectionEnd) {
        guard end.origin == .peer || end.origin == .local else { return }
        if end.origin == .peer, [.replaced, .revoked, .done].contains(end.code) { self.isWanted = false }
        self.pauses.connectionEndedBadly(at: Clock.now())
    }

    private func drop(_ id: CarrierID) {
        guard let carrier = self.carriers.first(where: { $0.id == id }) else { return }
        carrier.framer.discard()
        carrier.channel.close(promise: nil)
    }

    private func dropCarriers() {
        for carrier in self.carriers { self.drop(carrier.id) }
        self.datagrams?.stop()
    }
}

extension TunnelClient: StreamCarrierHandler.Owner {
    func carrierOpened(_ carrier: StreamCarrier) {
        if let address = carrier.address, carrier.command == nil, SelfConnection.closes(carrier.channel) {
            let reason = Failure.describe(IOError(errnoCode: ECONNREFUSED, reason: "connect"))
            return self.failed(address, .unreachable, "\(address) can't be reached: \(reason)")
        }
        guard self.isWanted, let address = carrier.address, self.order.addresses.contains(address) else {
            self.isDialling = false
            self.attempt = nil
            carrier.command?.end()
            carrier.channel.close(promise: nil)
            return self.dial()
        }
        self.isDialling = false
        self.carriers.append(carrier)
        self.limitWait(for: carrier)
        self.initiator.carrierOpened(carrier.id, at: Clock.now())
        self.pump()
    }

    func carrierHasRead(_ carrier: StreamCarrier) -> Bool {
        let now = Clock.now()
        let taken = carrier.take { message in
            _ = self.initiator.receive(message, from: carrier.id, at: now)
            return 1 + self.initiator.framesInLastMessage
        }
        if case .violation = taken {
            carrier.fault = "doesn't speak the tunnel's protocol"
            self.drop(carrier.id)
        }
        if case .turnIsOver = taken { return false }
        return true
    }

    func carrierReadComplete(_ carrier: StreamCarrier) { self.pump() }

    func carrierBecameWritable(_ carrier: StreamCarrier) { self.pump() }

    func carrierClosed(_ carrier: StreamCarrier) {
        let now = Clock.now()
        let wasKnown = self.carriers.contains { $0 === carrier }
        let wasAnswered = self.attempt == nil
        self.carriers.removeAll { $0 === carrier }
        self.initiator.carrierClosed(carrier.id, at: now)
        self.pump()
        guard wasKnown, self.isWanted, self.carriers.isEmpty else {
            carrier.command?.end()
            return
        }
        if wasAnswered { carrier.command?.end(after: carrier.fault == nil ? Self.ownEnd : .zero) }
        if !self.isConnected { self.delegate?.tunnelClientLostItsCarrier(self) }
        guard !self.isDialling, self.redial == nil else {
            carrier.command?.end()
            return
        }
        if let pause = self.pauses.afterEnding, self.initiator.connection == nil {
            self.attempt = nil
            carrier.command?.end()
            return self.dial(in: pause)
        }
        guard !wasAnswered, let address = carrier.address else {
            return self.dial(in: self.pauses.afterCarrier(thatLived: now - carrier.openedAt))
        }
        self.ledNowhere(carrier, address)
    }

    private func ledNowhere(_ carrier: StreamCarrier, _ address: Address) {
        guard let command = carrier.command else {
            let what = carrier.fault ?? "closed the connection without an answer"
            return self.failed(address, carrier.fault == nil ? .silent : .unreachable, "\(address) \(what)")
        }
        // No other address is dialled until the command has ended, so there is never more than one.
        self.isDialling = true
        command.end(after: carrier.fault == nil ? Self.ownEnd : .zero) { [weak self] ending in
            let what = carrier.fault ?? ending.reason
            self?.failed(address, .unreachable, "'\(address.abbreviated)' \(what)")
        }
    }

    /// How long a command whose output has ended may take to exit by itself: its exit code and last words say why it failed.
    private static let ownEnd = TimeAmount.milliseconds(200)
}
