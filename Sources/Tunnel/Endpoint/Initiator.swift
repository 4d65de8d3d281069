public import NIOCore
public import Noise

/// The workspace's half of a tunnel to one sidecar: handshakes, sessions, and the connection that outlives them.
///
/// Sans-I/O: the driver reports carriers and received messages, and pulls messages and events.
///
/// ```
///   carrierOpened ─▶ initiation ─▶ response ─▶ session ─▶ connection (new, or the one we named)
///                       ▲   │ 1, 2, 4, 5 s …                │ 120 s
///                       └───┘                               └─▶ initiation on the same carrier
/// ```
public struct Initiator: ~Copyable {
    public struct Configuration: Sendable {
        public var staticKey: StaticKeyPair
        public var responder: PublicKey
        public var presharedKey: PresharedKey
        public var tunnel = TunnelConfiguration()
        /// The latest timestamp that this key has ever sent, if one is recorded.
        public var lastTimestamp: TAI64N?

        public init(staticKey: StaticKeyPair, responder: PublicKey, presharedKey: PresharedKey = .none) {
            self.staticKey = staticKey
            self.responder = responder
            self.presharedKey = presharedKey
        }
    }

    public enum Event: Equatable, Sendable {
        /// A new connection. The end of an earlier one was reported before.
        case established
        /// The connection had no carrier, and continues on this one.
        case resumed(CarrierID)
        /// The connection changed to this carrier, and was never without one.
        case moved(CarrierID)
        /// An initiation on this carrier was answered, for the first time or again.
        case answered(CarrierID)
        /// This carrier is no longer needed or no longer trusted: the driver closes it.
        case closeCarrier(CarrierID)
        /// The sidecar is overloaded and answered with a cookie, which the next initiation carries.
        case sidecarIsBusy
        /// Datagrams no longer get through: a byte stream is needed now.
        case datagramsAreLost(CarrierID)
        /// A response with a right mac1 didn't open: the preshared keys differ.
        case presharedKeysDiffer
        case connection(ConnectionEvent)
    }

    /// An initiation that waits for its response. A class, so that the entry found in the array is changed in place.
    final class Pending {
        let localIndex: UInt32
        let carrier: CarrierID
        let sentAt: Instant
        let timestamp: TAI64N
        /// The mac1 of the message as it was sent: a cookie reply is bound to it.
        let mac1: Mac128
        var handshake: InitiatorHandshake

        init(
            localIndex: UInt32,
            carrier: CarrierID,
            sentAt: Instant,
            timestamp: TAI64N,
            mac1: Mac128,
            handshake: consuming InitiatorHandshake
        ) {
            self.localIndex = localIndex
            self.carrier = carrier
            self.sentAt = sentAt
            self.timestamp = timestamp
            self.mac1 = mac1
            self.handshake = handshake
        }
    }

    struct Carrier {
        let id: CarrierID
        let kind: CarrierKind
        var isAnswered = false
        /// Nothing got through on this carrier: it isn't used until an initiation on it is answered.
        var isDark = false
        var wasReportedLost = false
        /// When the connection last moved to this carrier.
        var chosenAt: Instant?
        /// The time from an initiation on this carrier to its response.
        var handshakeTime: TimeAmount?
        /// The cookie from the sidecar, valid for two minutes (PROTOCOL, cookies).
        var cookie: (value: Cookie, at: Instant)?
        /// A data message has shown that this carrier belongs to the connection.
        var isBound = false
        /// When the next initiation goes out on this carrier, while a response is awaited or datagrams pause.
        var retryAt: Instant?
        var attempts = 0
        /// When the first of these initiations went out.
        var since: Instant
        let openedAt: Instant
        var outbox: ByteBuffer?
    }

    let configuration: Configuration
    let random: RandomSource
    let wallClock: () -> TAI64N
    let arena = SecretArena()
    let sendingMac: MacKey
    let receivingMac: MacKey
    let cookieKey: CookieKey

    public internal(set) var lastTimestamp: TAI64N?
    public private(set) var drops = DropCounters()
    /// The connection, once there is one.
    public var connection: Connection?
    var connectionID: ConnectionID
    var madeBy: TAI64N?
    var sessions: [(session: Session, timestamp: TAI64N)] = []
    var pending: [Pending] = []
    var carriers: [Carrier] = []
    /// How many times in a row datagrams have lapsed, and until when they are not tried again.
    var lapses = 0
    var lapsedUntil: Instant?
    var lastSeen: Instant?
    var plaintext = PlaintextPool()
    /// Frames in the last received message: a measure of the work that it took.
    public private(set) var framesInLastMessage = 0
    var events = CircularBuffer<Event>()

    public init(_ configuration: Configuration, random: RandomSource, wallClock: @escaping () -> TAI64N) {
        self.configuration = configuration
        self.random = random
        self.wallClock = wallClock
        self.lastTimestamp = configuration.lastTimestamp
        self.sendingMac = MacKey(receiver: configuration.responder)
        self.receivingMac = MacKey(receiver: configuration.staticKey.publicKey)
        self.cookieKey = CookieKey(responder: configuration.responder)
        self.connectionID = ConnectionID(rawValue: random.next())
    }

    /// Age of the newest session: how long ago the last handshake was.
    public func handshakeAge(at now: Instant) -> TimeAmount? { self.sessions.last.map { now - $0.session.createdAt } }

    /// The number of key copies in memory, for tests.
    var liveSecrets: Int { self.arena.liveSecrets }

    // MARK: Time

    /// If this process stood still for longer than `dead_after`, messages that lie unread are not worth reading, since the
    /// peer has moved on (PROTOCOL, liveness): all carriers are closed.
    mutating func notice(_ now: Instant) {
        defer { self.lastSeen = now }
        // `deadAfter` is read only when it may matter: reading it copies the connection.
        guard let lastSeen = self.lastSeen, now - lastSeen >= Constants.deadAfterAtLeast,
            let deadAfter = self.connection?.deadAfter, now - lastSeen > deadAfter
        else { return }
        self.closeCarriers(at: now) { _ in true }
    }

    // MARK: Messages

    /// Takes a received message. The driver closes the carrier only when an event says so.
    public mutating func receive(_ message: ByteBuffer, from carrier: CarrierID, at now: Instant) -> MessageVerdict {
        self.notice(now)
        self.framesInLastMessage = 0
        guard self.carriers.contains(where: { $0.id == carrier }) else { return self.drops.count(.otherConnection) }
        guard let type = OuterMessageType(of: message) else { return self.drops.count(.malformed) }
        let dropped: DropReason?
        switch type {
        case .data: dropped = self.receiveData(message, from: carrier, at: now)
        case .response: dropped = self.receiveResponse(message, from: carrier, at: now)
        case .cookieReply: dropped = self.receiveCookie(message, from: carrier, at: now)
        case .initiation: dropped = .wrongRole
        }
        guard let dropped else {
            if self.connection?.needsAttention ?? false { self.collectEvents(at: now) }
            return .taken
        }
        return self.drops.count(dropped)
    }

    private mutating func receiveData(_ message: ByteBuffer, from carrier: CarrierID, at now: Instant) -> DropReason? {
        guard let header = DataHeader(of: message) else { return .malformed }
        guard let at = self.sessions.lastIndex(where: { $0.session.localIndex == header.receiver }) else {
            return .unknownIndex
        }
        let session = self.sessions[at].session
        var plaintext = self.plaintext.take(forMessageOf: message.readableBytes)
        if let reason = session.open(message, header, into: &plaintext, at: now) {
            if session.isWornOut { self.sessions.remove(at: at) }
            return reason
        }
        let kind = self.carriers.first { $0.id == carrier }?.kind ?? .stream
        if kind == .stream, plaintext.readableBytes > 0 { self.connection?.askPeer() }
        self.framesInLastMessage =
            self.connection?.receive(
                frames: plaintext,
                number: header.counter,
                bytes: message.readableBytes,
                over: kind,
                at: now
            ) ?? 0
        self.plaintext.giveBack(plaintext)
        return nil
    }

    /// Appends the next message for this carrier to the buffer. False: there is none now.
    public mutating func writeNext(into buffer: inout ByteBuffer, for carrier: CarrierID, at now: Instant) -> Bool {
        if let at = self.carriers.firstIndex(where: { $0.id == carrier }), let message = self.carriers[at].outbox {
            self.carriers[at].outbox = nil
            buffer.writeImmutableBuffer(message)
            return true
        }
        let wrote = self.connection?.writeNext(into: &buffer, onlyOn: carrier, at: now) ?? false
        if wrote, let at = self.carriers.firstIndex(where: { $0.id == carrier }) { self.carriers[at].isBound = true }
        // Sending may have made streams writable again, or used up the message numbers, which ends the connection.
        if self.connection?.needsAttention ?? false { self.collectEvents(at: now) }
        return wrote
    }

    // MARK: The connection's end

    /// Ends the connection for a reason of ours. As for any other end, `.connection(.ended)` follows.
    public mutating func close(_ code: ErrorCode, reason: String = "", at now: Instant) {
        self.connection?.close(code, reason: reason, at: now)
        self.collectEvents(at: now)
    }

    /// Whether the peer still has to be told that the connection has ended.
    public var isClosing: Bool {
        switch self.connection {
        case .some(let connection): connection.isClosing
        case .none: false
        }
    }

    mutating func endConnection(_ origin: ConnectionEnd.Origin, at now: Instant) {
        self.connection?.end(ConnectionEnd(code: .noError, origin: origin, reason: ""), at: now)
        while let event = self.connection?.nextEvent() { self.events.append(.connection(event)) }
        self.dropConnection()
    }

    /// The connection is over: its keys are erased, and the next handshake names a new random id.
    private mutating func dropConnection() {
        self.connection = nil
        self.madeBy = nil
        self.sessions.removeAll()
        self.connectionID = ConnectionID(rawValue: self.random.next())
    }

    mutating func collectEvents(at now: Instant) {
        var isGone = false
        while let event = self.connection?.nextEvent() {
            if event == .presence(.gone) { isGone = true }
            if event == .presence(.suspected) { self.askOverDatagrams(at: now) }
            // For many messages that arrived together, one `.readable` is enough.
            if event.isReadable, self.events.last == .connection(event) { continue }
            self.events.append(.connection(event))
        }
        if self.connection?.isFinished ?? false {
            self.dropConnection()
            self.closeCarriers(at: now) { _ in true }
        } else if isGone {
            self.closeCarriers(at: now) { $0.isAnswered }
        }
    }

    // MARK: Events and time

    public mutating func nextEvent() -> Event? {
        if let event = self.events.popFirst() { return event }
        return self.connection?.nextEvent().map { .connection($0) }
    }

    public var nextDeadline: Instant? {
        var deadline: Instant?
        var active: CarrierID?
        var deadAfter: TimeAmount?
        switch self.connection {
        case .some(let connection):
            deadline = connection.nextDeadline
            active = connection.carrier
            // Read here and not below: every `self.connection?` in a getter costs the compiler minutes.
            deadAfter = connection.deadAfter
        case .none: break
        }
        // Keys are erased when they expire, used or not.
        if let oldest = self.sessions.first?.session { deadline = sooner(deadline, oldest.expiresAt) }
        if self.isClosing { return deadline }
        // An idle initiator must be called now and then, or `notice` would take its idleness for a process that stood still.
        if !self.carriers.isEmpty, let lastSeen = self.lastSeen, let deadAfter {
            deadline = sooner(deadline, lastSeen + .nanoseconds(deadAfter.nanoseconds / 2))
        }
        for carrier in self.carriers {
            deadline = sooner(deadline, carrier.retryAt)
            // Only byte streams are given up without a response: unanswered datagrams may be answered later, and nothing
            // waits behind them.
            if !carrier.isAnswered, carrier.kind == .stream {
                deadline = sooner(deadline, carrier.openedAt + Constants.answerPatience)
            }
        }
        if let newest = self.sessions.last?.session,
            self.carriers.contains(where: { $0.id == active && $0.retryAt == nil })
        {
            deadline = sooner(deadline, newest.createdAt + Constants.rekeyAfterTime)
        }
        return deadline
    }

    public mutating func handleDeadline(at now: Instant) {
        self.notice(now)
        self.connection?.handleDeadline(at: now)
        self.collectEvents(at: now)
        for (session, _) in self.sessions where session.isExpired(at: now) { self.connection?.forget(session) }
        self.sessions.removeAll { $0.session.isExpired(at: now) }
        // A closing connection needs no new keys.
        if self.isClosing { return }
        let active = self.connection?.carrier
        // Without any session, new keys are needed all the more.
        let needsKeys = self.sessions.last?.session.wantsRekey(at: now) ?? true
        if needsKeys, let at = self.carriers.firstIndex(where: { $0.id == active && $0.retryAt == nil }) {
            self.carriers[at].since = now
            self.initiate(on: self.carriers[at].id, at: now)
        }
        self.leaveTheDark(at: now)
        self.closeCarriers(at: now) {
            !$0.isAnswered && $0.kind == .stream && now >= $0.openedAt + Constants.answerPatience
        }
        for carrier in self.carriers {
            if let retryAt = carrier.retryAt, now >= retryAt { self.initiate(on: carrier.id, at: now) }
        }
    }
}

extension Initiator {
    /// Runs the body on the connection in place; nil if there is none.
    public mutating func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.connection?.apply(body)
    }
}
