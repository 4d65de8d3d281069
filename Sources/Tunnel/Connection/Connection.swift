public import NIOCore
import Noise

/// One connection: streams, their flow control, message numbers and acknowledgement, and whether the peer is alive.
///
/// It outlives sessions and carriers: the loss of a carrier leaves its state as it is, and a new session only changes the
/// keys that seal its messages. It opens no socket and reads no clock. The caller hands in received messages and the time,
/// then calls `writeNext` and `nextEvent`, in any order, until each returns nil, and calls `handleDeadline` at
/// `nextDeadline`.
///
/// Nearly all that it has is in values, whose fields only their own methods change. Its extensions let them work together.
///
/// Not copyable: the message number is the nonce, and a copy would use a number twice.
public struct Connection: ~Copyable {
    enum State {
        case active
        /// We ended it.
        case closing(Closing)
        case closed
    }

    let role: Role
    let id: ConnectionID
    let configuration: TunnelConfiguration
    let random: RandomSource
    var state = State.active

    // Where its messages go
    var path = Path()
    var pathValidation = PathValidation()
    var session: Session?
    var liveness: Liveness

    // Which messages were sent and received
    var numbers: MessageNumbers
    var sent = SentMessages()
    var received = ReceivedNumbers()
    /// The messages that an ACK frame settles: an array that is reused from one frame to the next.
    var settled: [SentMessage] = []

    // What they carry
    var streams: StreamTable
    var flow: FlowControl
    var queues = SendQueues()
    var heldResets = HeldResets()
    var datagrams = DatagramFrames()
    let peerTakesUrgent: Bool
    /// The peer takes no urgent data, and a byte was dropped for that: only the first one is reported.
    var urgentWasLeftOut = false

    var events = CircularBuffer<ConnectionEvent>()

    /// Totals, for metrics and for the tunnel's status.
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
        self.liveness = Liveness(deadAfter: min(own.deadAfter, peerParameters.deadAfter), at: now)
        self.flow = FlowControl(
            configuration,
            window: own.initialMaxData,
            credit: peerParameters.initialMaxData,
            sharing: memory
        )
        self.streams = StreamTable(role, maxFromPeer: own.initialMaxStreams, peer: peerParameters)
        self.peerTakesUrgent = peerParameters.takesUrgent
        self.numbers = MessageNumbers(random: random)
    }

    // MARK: Asking

    /// The next event, in the order in which they happened; nil when there is none.
    public mutating func nextEvent() -> ConnectionEvent? {
        guard let event = self.events.popFirst() else { return nil }
        if case .readable(let id) = event { self.streams[id]?.readableIsSignalled = false }
        if case .datagramsReadable = event { self.datagrams.readableIsTaken() }
        return event
    }

    /// `mutating`, as `needsAttention`: a mutating access through an optional happens in place, while a read copies the whole
    /// connection.
    var hasEvents: Bool { mutating get { !self.events.isEmpty } }

    /// Whether the owner should collect the events at once: the connection has ended, or there is more than a single
    /// `.readable`. Each of many messages that arrive together would ask for that, and the stream's reader needs to be told
    /// only once.
    var needsAttention: Bool {
        mutating get { !self.isActive || self.events.count > 1 || self.events.first.map { !$0.isReadable } ?? false }
    }

    public var isActive: Bool { if case .active = self.state { true } else { false } }

    /// The connection has ended, and the peer may still have to be told so.
    public var isClosing: Bool { if case .closing = self.state { true } else { false } }

    /// The connection is over and its keys are gone: the owner can drop it.
    var isFinished: Bool { if case .closed = self.state { true } else { false } }

    public var hasCarrier: Bool { self.carrier != nil }

    /// The largest message that the datagram path in use carries, in bytes of UDP payload; nil on a byte stream.
    public var pathMTU: Int? { self.recovery?.mtu.current }

    /// The smoothed round trip on the carrier in use; nil before the first sample.
    public var measuredRoundTripTime: TimeAmount? {
        self.roundTripTime.latest == nil ? nil : self.roundTripTime.smoothed
    }

    public var openStreamCount: Int { self.streams.count - (self.streams.peek(.control) == nil ? 0 : 1) }

    /// Bytes of stream data held: for the peer until it acknowledges them, for the application until it reads them. For
    /// metrics and for tests of the bounds.
    public var memoryInUse: Int { self.flow.sendBuffered + Int(self.flow.receiveWindow.buffered) }
}

extension Connection {
    /// For `optional?.apply { … }`: optional chaining works on a non-copyable value in place, where an `if let` would have to
    /// move it.
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
    /// Datagrams of either direction that were dropped: the queue was full, the path's MTU fell below their size, or the peer
    /// was gone.
    public var datagramsDropped: UInt64 = 0
    /// TCP resets that were sent before the peer had acknowledged all bytes ahead of them, after 10 s without progress.
    public var resetsForced: UInt64 = 0
    public var carriers: UInt64 = 0
    public var sessions: UInt64 = 0
}
