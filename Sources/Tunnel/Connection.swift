public import NIOCore
import Noise

/// One connection: streams, their flow control, message numbers and acknowledgement, and whether the peer is alive.
///
/// It outlives sessions and carriers: a lost carrier costs it nothing, a new session only changes what its messages are
/// sealed with. It opens no socket and reads no clock. Hand in what came and what time it is, then pull, in any order but
/// until each is empty: `writeNext`, `nextEvent`, and `nextDeadline` for when to call `handleDeadline`.
///
/// Not copyable: the message number is the nonce, and a copy would use one twice.
public struct Connection: ~Copyable {
    enum State {
        case active
        /// We ended it; what the peer still sends is answered with the reason, until then.
        case closing(ConnectionEnd, until: Instant)
        case closed
    }

    let role: Role
    let id: ConnectionID
    let configuration: TunnelConfiguration
    let random: RandomSource
    var state = State.active

    // Where and with what we send
    var carrier: CarrierID?
    var session: Session?
    var newestSessionAt: Instant?
    var deadAfter: TimeAmount

    // Numbers
    var nextNumber: UInt64 = 0
    var nextSkip: UInt64 = 0
    var highestReceived: UInt64?
    var sent = SentMessages()
    var received = ReceivedNumbers()
    /// Room for what an ACK frame settles.
    var settled: [SentMessage] = []
    var roundTripTime = RoundTripTime()
    /// Of a carrier of datagrams; nil on a byte stream.
    var recovery: DatagramRecovery?
    /// Whether there is one: to look at that itself copies all of it, and each message asks.
    var usesDatagrams = false
    /// ACKs that went out with nothing that would be acknowledged itself.
    var acksAlone = 0
    var pathResponses = CircularBuffer<UInt64>()
    /// What the peer answered to challenges since it was last asked.
    var pathResponsesReceived: [UInt64] = []

    // Flow control
    var sendCredit: SendCredit
    var receiveWindow: ReceiveWindow
    var peerInitialMaxStreamData: UInt64
    /// Bytes in all send buffers.
    var sendBuffered = 0 { didSet { self.memory?.keep(self.sendBuffered) } }
    /// A responder's connections share; nil: this one has its bounds for itself.
    var memory: StreamMemoryPart?
    var someWaitForRoom = false
    var gapCount = 0

    // Urgent data
    let peerTakesUrgent: Bool
    /// For a peer that doesn't.
    var urgentWasLeftOut = false

    // Streams
    var streams = StreamTable()
    /// Stream 0 again, since every message asks for it.
    var controlStream: StreamState?
    var localNextIndex: UInt64 = 0
    var localStreamLimit: UInt64
    var peerNextIndex: UInt64 = 0
    var peerStreamLimit: UInt64
    var peerStreamsDone: UInt64 = 0

    // What waits to go out
    var pendingControl: ControlFrames = []
    var pingIsPending = false
    var controlQueue = CircularBuffer<StreamID>()
    var lostQueue = CircularBuffer<StreamID>()
    var freshQueue = CircularBuffer<StreamID>()
    /// Streams that hold back a TCP reset, and when they are next looked at.
    var heldStreams: [StreamID] = []
    var heldCheckAt: Instant?
    /// Streams that have something to send but for the connection's credit; they move to `freshQueue` when it rises.
    var blockedQueue = CircularBuffer<StreamID>()
    var datagrams = DatagramFrames()
    var closeIsPending = false
    var closeSentAt: Instant?
    var closingSince: Instant?

    // Liveness
    public internal(set) var presence = Presence.live
    /// The last sign of life that counts: an acknowledgement of ours, a confirmation, a new carrier.
    var aliveAt: Instant
    var elicitedAt: Instant
    var probeCount = 0
    /// When the last of its carriers was lost; and since when none is used, from the start or since the last one ended.
    var carrierLostAt: Instant?
    var unusedSince: Instant?
    /// Since then a sign of life is waited for, for less long than usual.
    var signWantedAt: Instant?

    var events = CircularBuffer<ConnectionEvent>()

    /// Totals, for metrics and for whoever asks how the tunnel is.
    public internal(set) var statistics = ConnectionStatistics()

    init(
        role: Role,
        id: ConnectionID,
        configuration: TunnelConfiguration,
        peerParameters: TransportParameters,
        random: RandomSource,
        sharing memory: StreamMemory? = nil,
        at now: Instant
    ) {
        self.role = role
        self.id = id
        self.configuration = configuration
        self.random = random
        let own = configuration.parameters(id, sharesMemory: memory != nil)
        self.deadAfter = min(own.deadAfter, peerParameters.deadAfter)
        self.sendCredit = SendCredit(limit: peerParameters.initialMaxData)
        self.receiveWindow = ReceiveWindow(window: own.initialMaxData)
        self.peerInitialMaxStreamData = peerParameters.initialMaxStreamData
        self.localStreamLimit = peerParameters.initialMaxStreams
        self.peerTakesUrgent = peerParameters.takesUrgent
        self.peerStreamLimit = own.initialMaxStreams
        self.aliveAt = now
        self.elicitedAt = now
        self.unusedSince = now
        self.nextSkip = self.drawSkip(after: 0)
        self.memory = memory.map { StreamMemoryPart(of: $0, configuration) }
    }

    // MARK: Asking

    /// What happened since the last call, in order; nil when there is nothing more.
    public mutating func nextEvent() -> ConnectionEvent? {
        guard let event = self.events.popFirst() else { return nil }
        if case .readable(let id) = event { self.streams[id]?.readableIsSignalled = false }
        if case .datagramsReadable = event { self.datagrams.readableIsSignalled = false }
        return event
    }

    /// Mutating, as the next: through an optional that is done in place, where a mere look copies the whole connection.
    var hasEvents: Bool { mutating get { !self.events.isEmpty } }

    /// Whether something is to be done at once: it has ended, or an event says more than that a stream has something to read.
    /// Of many messages that come at once each would say that, and whoever reads needs to be told once.
    var needsAttention: Bool {
        mutating get { !self.isActive || self.events.count > 1 || self.events.first.map { !$0.isReadable } ?? false }
    }

    public var isActive: Bool { if case .active = self.state { true } else { false } }

    /// It has ended, and its peer is still to be told so.
    public var isClosing: Bool { if case .closing = self.state { true } else { false } }

    /// Nothing is left to do with it: it can be let go.
    var isFinished: Bool { if case .closed = self.state { true } else { false } }

    public var hasCarrier: Bool { self.carrier != nil }

    /// The greatest message that the path of datagrams in use takes, in bytes of UDP payload; nil on a byte stream.
    public var pathMTU: Int? { self.recovery?.mtu.current }

    /// The round trip on the present carrier, once one was measured.
    public var measuredRoundTripTime: TimeAmount? {
        self.roundTripTime.latest == nil ? nil : self.roundTripTime.smoothed
    }

    public var openStreamCount: Int { self.streams.count - (self.streams.peek(.control) == nil ? 0 : 1) }

    /// Bytes held for the application and for the peer, for tests of the bounds and for metrics.
    public var memoryInUse: Int { self.sendBuffered + Int(self.receiveWindow.buffered) }

    // MARK: Ending

    /// Ends the connection: the peer is told why, and every stream is over at once.
    public mutating func close(_ code: ErrorCode, reason: String = "", at now: Instant) {
        self.end(ConnectionEnd(code: code, origin: .local, reason: reason), at: now)
    }

    mutating func end(_ end: ConnectionEnd, at now: Instant) {
        guard self.isActive else { return }
        self.dropStreams()
        self.memory = nil
        self.events.append(.ended(end))
        if end.origin == .local, self.carrier != nil, self.session != nil {
            self.closingSince = now
            self.state = .closing(end, until: now + self.closingLifetime(end))
            self.closeIsPending = true
        } else {
            self.wipe()
        }
    }

    /// RFC 9000 §10.2: three PTOs.
    private func closingLifetime(_ end: ConnectionEnd) -> TimeAmount {
        var lifetime = TimeAmount.nanoseconds(3 * self.roundTripTime.probeTimeout.nanoseconds)
        // A path that had grown slow before it fell silent keeps nobody waiting for longer than a peer is waited for.
        if self.usesDatagrams { lifetime = min(lifetime, self.deadAfter) }
        // The keys of a key that is accepted no more are gone within a second.
        if end.code == .revoked { lifetime = min(lifetime, Constants.revokedLifetime) }
        return lifetime
    }

    /// The close goes out now: a byte stream may have been too full for it until then.
    mutating func closeIsSent(_ end: ConnectionEnd, at now: Instant) {
        if self.closeSentAt == nil, !self.usesDatagrams, end.code != .revoked {
            self.state = .closing(end, until: now + self.closingLifetime(end))
        }
        self.closeIsPending = false
        self.closeSentAt = now
    }

    /// Whether a close that nobody could be told of yet is given more time.
    func waitsForRoomToClose(_ end: ConnectionEnd, at now: Instant) -> Bool {
        guard self.closeIsPending, self.closeSentAt == nil, !self.usesDatagrams, end.code != .revoked else {
            return false
        }
        return self.closingSince.map { now < $0 + self.deadAfter } ?? false
    }

    /// Its keys are to be erased: nothing is sealed with it any more.
    mutating func forget(_ session: Session) {
        if self.session === session { self.session = nil }
    }

    mutating func wipe() {
        self.state = .closed
        self.memory = nil
        self.session = nil
        self.carrier = nil
    }

    private mutating func dropStreams() {
        self.streams.removeAll()
        self.controlStream = nil
        self.controlQueue.removeAll()
        self.lostQueue.removeAll()
        self.freshQueue.removeAll()
        self.blockedQueue.removeAll()
        self.datagrams.removeAll()
        self.sent.settleAll(where: { _ in true }, { _ in })
        self.sent.forgetMore()
        self.recovery?.inFlight = 0
        self.events.removeAll()
        self.sendBuffered = 0
        self.gapCount = 0
        self.receiveWindow.consume(self.receiveWindow.buffered)
    }

    /// About one number in 512 is left out, at a place that a peer can't foresee.
    mutating func drawSkip(after number: UInt64) -> UInt64 {
        number + 1 + self.random.next() % (2 * Constants.skipInterval)
    }
}

extension Connection {
    /// Optional chaining reaches a value that can't be copied in place; an `if let` would have to move it.
    mutating func apply<Result>(_ body: (inout Connection) -> Result) -> Result { body(&self) }
}

/// What a connection has done since it began.
public struct ConnectionStatistics: Sendable {
    public var messagesSent: UInt64 = 0
    public var messagesReceived: UInt64 = 0
    public var bytesSent: UInt64 = 0
    public var bytesReceived: UInt64 = 0
    public var messagesLost: UInt64 = 0
    public var datagramsSent: UInt64 = 0
    public var datagramsReceived: UInt64 = 0
    /// Of either direction, those that had to go for younger ones, or became too long while they waited.
    public var datagramsDropped: UInt64 = 0
    /// TCP resets that waited for bytes before them in vain.
    public var resetsForced: UInt64 = 0
    public var carriers: UInt64 = 0
    public var sessions: UInt64 = 0
}
