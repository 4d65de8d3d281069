public import NIOCore
import NIOPosix
import Noise
public import Tunnel

/// The workspace's tunnel to one sidecar, with real sockets and a real clock: dials, and dials again.
///
/// Everything happens on one event loop: the tunnel's carriers, its streams and the sockets that the agent ties to them.
public final class TunnelClient {
    public protocol Delegate: AnyObject {
        /// Called on the event loop, never from within a call that the delegate makes.
        func tunnelClient(_ client: TunnelClient, did event: Initiator.Event)
        /// A carrier could not be made, or ended; when the next one is dialled.
        func tunnelClient(_ client: TunnelClient, dialFailed reason: String, retryIn delay: TimeAmount)
        /// The last carrier has closed. Another one is being dialled, or will be.
        func tunnelClientLostItsCarrier(_ client: TunnelClient)
    }

    public struct Address: Hashable, Sendable, CustomStringConvertible {
        public var host: String
        public var port: Int

        public init(host: String, port: Int) {
            self.host = host
            self.port = port
        }

        public var description: String {
            self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)"
        }
    }

    public let eventLoop: any EventLoop
    private let address: Address
    private let random: RandomSource
    private weak var delegate: (any Delegate)?
    private var initiator: Initiator
    private let maxMessageSize: Int
    private let timer: DeadlineTimer
    private var carriers: [StreamCarrier] = []
    private var nextCarrier: UInt64 = 1
    private var isWanted = false
    private var isDialling = false
    private var dialAttempts = 0
    /// How many connections in a row the peer ended with an error, and when the last one began.
    private var badEndings = 0
    private var establishedAt = Instant(nanoseconds: 0)
    private var redial: Scheduled<Void>?
    private var pumpIsScheduled = false
    private var isDelivering = false

    /// PROTOCOL, retries. The short steps are for a carrier that breaks during the handshake: the sidecar waits a second for
    /// the next one before it gives new connections to the original.
    private static let backoff: [TimeAmount] =
        [.zero] + [100, 200, 400, 1_000, 2_000, 4_000, 5_000].map { TimeAmount.milliseconds($0) }
    /// Of a step, as much as this, and of none more than a third of a second.
    private static let jitterShare = 3
    private static let jitter = TimeAmount.milliseconds(333)
    /// A carrier that lived less than this was cut by something that will cut the next one too: don't spin.
    private static let shortLife = TimeAmount.milliseconds(250)
    private static let shortLifePause = TimeAmount.milliseconds(50)
    /// After a connection that ended with an error: 1, 2, 4, 8, then 15 s, unless it had held for this long.
    private static let endingBackoff: [TimeAmount] = [.seconds(1), .seconds(2), .seconds(4), .seconds(8), .seconds(15)]
    private static let heldLongEnough = TimeAmount.seconds(60)
    private static let connectTimeout = TimeAmount.seconds(5)

    /// - Precondition: called on the event loop, as every method here.
    public init(
        _ configuration: Initiator.Configuration,
        address: Address,
        eventLoop: any EventLoop,
        delegate: any Delegate
    ) {
        eventLoop.preconditionInEventLoop()
        self.eventLoop = eventLoop
        self.address = address
        self.delegate = delegate
        self.random = .system
        self.maxMessageSize = configuration.tunnel.maxMessageSize
        self.initiator = Initiator(configuration, random: self.random, wallClock: Clock.wallClock)
        self.timer = DeadlineTimer(eventLoop: eventLoop)
        self.timer.onDeadline = { [weak self] in self?.deadline() }
    }

    // MARK: For the agent

    /// Begins to dial, and goes on until `close` or until the connection's end says that nobody should.
    public func start() {
        self.isWanted = true
        self.dial()
    }

    /// Works on the connection, if there is one; what it wants to send goes out soon after.
    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        defer { self.schedulePump() }
        return self.initiator.withConnection(body)
    }

    /// Ends the connection, if there is one, and dials no more.
    public func close(_ code: ErrorCode) {
        self.isWanted = false
        self.redial?.cancel()
        self.initiator.close(code, at: Clock.now())
        self.schedulePump()
        if !self.initiator.isClosing { self.dropCarriers() }
    }

    /// Ends this connection for a fault of the peer's; another one is dialled after a while.
    public func endConnection(_ code: ErrorCode) {
        self.initiator.close(code, at: Clock.now())
        self.schedulePump()
    }

    /// Dials no more and lets all carriers go, saying nothing: after REPLACED and its like.
    public func stop() {
        self.isWanted = false
        self.redial?.cancel()
        self.dropCarriers()
    }

    /// A close that the peer has not been told of yet.
    public var isClosing: Bool { self.initiator.isClosing }

    public var drops: DropCounters { self.initiator.drops }
    public var lastTimestamp: TAI64N? { self.initiator.lastTimestamp }
    public var handshakeAge: TimeAmount? { self.initiator.handshakeAge(at: Clock.now()) }

    // MARK: Dialling

    private func dial() {
        self.redial = nil
        guard self.isWanted, !self.isDialling, self.carriers.isEmpty else { return }
        self.isDialling = true
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        ClientBootstrap(group: self.eventLoop)
            .connectTimeout(Self.connectTimeout)
            .channelOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
            .channelOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
            .carrierSocketOptions()
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try bound.value.attach(channel) }
            }
            .connect(host: self.address.host, port: self.address.port)
            .assumeIsolated()
            .whenComplete { [weak self] result in self?.dialled(result) }
    }

    private func attach(_ channel: any Channel) throws {
        let carrier = StreamCarrier(
            id: CarrierID(self.nextCarrier),
            channel: channel,
            framer: MessageFramer(role: .initiator, maxMessageSize: self.maxMessageSize),
            at: Clock.now()
        )
        self.nextCarrier += 1
        try channel.pipeline.syncOperations.addHandler(StreamCarrierHandler(carrier: carrier, owner: self))
    }

    private func dialled(_ result: Result<any Channel, any Error>) {
        self.isDialling = false
        if case .failure(let error) = result {
            self.dialFailed("\(self.address) can't be reached: \(Failure.describe(error))")
        }
    }

    private func dialFailed(_ reason: String) {
        guard self.isWanted else { return }
        let step = Self.backoff[min(self.dialAttempts, Self.backoff.count - 1)]
        self.dialAttempts = min(self.dialAttempts + 1, Self.backoff.count)
        let most = min(Self.jitter.nanoseconds, step.nanoseconds / Int64(Self.jitterShare))
        let jitter = most > 0 ? Int64(self.random.next() % UInt64(most)) : 0
        self.dial(in: step + .nanoseconds(jitter))
        self.delegate?.tunnelClient(self, dialFailed: reason, retryIn: step)
    }

    private func dial(in delay: TimeAmount) {
        self.redial?.cancel()
        self.redial = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in self?.dial() }
    }

    // MARK: Pumping

    /// Once for all that happens in this turn of the loop, so that many small writes leave in one message.
    private func schedulePump() {
        guard !self.pumpIsScheduled else { return }
        self.pumpIsScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.pumpIsScheduled = false
            self.pump()
        }
    }

    private func pump() {
        let now = Clock.now()
        self.deliverEvents()
        for carrier in self.carriers {
            carrier.pump { self.initiator.writeNext(into: &$0, for: carrier.id, at: now) }
        }
        self.deliverEvents()
        self.timer.arm(for: self.initiator.nextDeadline, now: now)
    }

    private func deadline() {
        self.initiator.handleDeadline(at: Clock.now())
        self.pump()
    }

    private func deliverEvents() {
        // An event's receiver calls back in, and may cause more: they are delivered by the loop that runs already.
        guard !self.isDelivering else { return }
        self.isDelivering = true
        defer { self.isDelivering = false }
        while let event = self.initiator.nextEvent() {
            switch event {
            case .closeCarrier(let id): self.drop(id)
            case .established:
                self.dialAttempts = 0
                self.establishedAt = Clock.now()
            case .resumed: self.dialAttempts = 0
            case .connection(.ended(let end)): self.connectionEnded(end)
            case .connection, .presharedKeysDiffer: break
            }
            self.delegate?.tunnelClient(self, did: event)
        }
    }

    /// PROTOCOL, closing: some ends say that nobody should come back, others that nobody should come back at once.
    private func connectionEnded(_ end: ConnectionEnd) {
        guard end.origin == .peer || end.origin == .local else { return }
        if end.origin == .peer, [.replaced, .revoked, .done].contains(end.code) { self.isWanted = false }
        if Clock.now() - self.establishedAt >= Self.heldLongEnough { self.badEndings = 0 }
        self.badEndings = min(self.badEndings + 1, Self.endingBackoff.count)
    }

    private func drop(_ id: CarrierID) {
        guard let carrier = self.carriers.first(where: { $0.id == id }) else { return }
        carrier.framer.discard()
        carrier.channel.close(promise: nil)
    }

    private func dropCarriers() {
        for carrier in self.carriers { self.drop(carrier.id) }
    }
}

extension TunnelClient: StreamCarrierHandler.Owner {
    func carrierOpened(_ carrier: StreamCarrier) {
        guard self.isWanted else { return carrier.channel.close(promise: nil) }
        self.isDialling = false
        self.carriers.append(carrier)
        self.initiator.carrierOpened(carrier.id, at: Clock.now())
        self.pump()
    }

    func carrier(_ carrier: StreamCarrier, read bytes: ByteBuffer) {
        let now = Clock.now()
        carrier.framer.append(bytes)
        while true {
            switch carrier.framer.next() {
            case .message(let message): _ = self.initiator.receive(message, from: carrier.id, at: now)
            case .needsMore: return
            case .violation:
                self.drop(carrier.id)
                return
            }
        }
    }

    func carrierReadComplete(_ carrier: StreamCarrier) { self.pump() }

    func carrierBecameWritable(_ carrier: StreamCarrier) { self.pump() }

    func carrierClosed(_ carrier: StreamCarrier) {
        let now = Clock.now()
        self.carriers.removeAll { $0 === carrier }
        self.initiator.carrierClosed(carrier.id, at: now)
        self.pump()
        guard self.isWanted, self.carriers.isEmpty else { return }
        self.delegate?.tunnelClientLostItsCarrier(self)
        guard !self.isDialling, self.redial == nil else { return }
        if self.badEndings > 0, self.initiator.connection == nil {
            return self.dial(in: Self.endingBackoff[self.badEndings - 1])
        }
        let wasShort = now - carrier.openedAt < Self.shortLife
        if self.dialAttempts == 0 {
            self.dialAttempts = 1
            self.dial(in: wasShort ? Self.shortLifePause : .zero)
        } else {
            self.dialFailed("\(self.address) closed the connection without an answer")
        }
    }
}
