public import NIOCore
public import Noise

/// The workspace's half of a tunnel to one sidecar: handshakes, sessions, and the connection that lives through them.
///
/// Sans-I/O: the driver says which carriers there are and what came on them, and pulls messages and events.
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
        /// The greatest timestamp that this key has ever sent, if anything remembers it.
        public var lastTimestamp: TAI64N?

        public init(staticKey: StaticKeyPair, responder: PublicKey, presharedKey: PresharedKey = .none) {
            self.staticKey = staticKey
            self.responder = responder
            self.presharedKey = presharedKey
        }
    }

    public enum Event: Equatable, Sendable {
        /// A new connection. An earlier one's end was told before.
        case established
        /// The connection goes on, on this carrier.
        case resumed(CarrierID)
        /// It goes on another carrier than before, and was never without one.
        case moved(CarrierID)
        /// An initiation on this carrier was answered, for the first time or again.
        case answered(CarrierID)
        /// No longer needed, or no longer trusted: close it.
        case closeCarrier(CarrierID)
        /// The sidecar answers initiations by cookies: it is overloaded, and takes the next one.
        case sidecarIsBusy
        /// Datagrams get through no more: the byte stream beside them is needed now, if there is one.
        case datagramsAreLost(CarrierID)
        /// A response came whose mac1 is right but which doesn't open: the preshared keys differ.
        case presharedKeysDiffer
        case connection(ConnectionEvent)
    }

    /// An initiation that waits for its response. A class, since it is found by its index in an array.
    final class Pending {
        let localIndex: UInt32
        let carrier: CarrierID
        let sentAt: Instant
        let timestamp: TAI64N
        /// Of the message as it was sent: a cookie reply answers it.
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
        /// Nothing got through it lately: not used until an initiation on it is answered.
        var isDark = false
        var wasReportedLost = false
        /// When the connection came to it.
        var chosenAt: Instant?
        /// From an initiation to its answer, measured here.
        var handshakeTime: TimeAmount?
        /// What the sidecar asked for, for two minutes (PROTOCOL, cookies).
        var cookie: (value: Cookie, at: Instant)?
        /// Messages of the connection's have shown it to be the connection's.
        var isBound = false
        /// When the next initiation goes out on it, if an answer is being waited for.
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

    public private(set) var lastTimestamp: TAI64N?
    public private(set) var drops = DropCounters()
    /// The connection, once there is one.
    public var connection: Connection?
    var connectionID: ConnectionID
    var madeBy: TAI64N?
    var sessions: [(session: Session, timestamp: TAI64N)] = []
    var pending: [Pending] = []
    var carriers: [Carrier] = []
    /// How often in a row datagrams got through no more soon after they were chosen, and until when nobody asks again.
    var lapses = 0
    var lapsedUntil: Instant?
    var lastSeen: Instant?
    var plaintext = PlaintextPool()
    /// Of what was received last: the work that it was.
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

    /// Copies of keys in memory, for tests that count them.
    var liveSecrets: Int { self.arena.liveSecrets }

    // MARK: Time

    /// After standing still for longer than a peer is waited for, nothing that lies unread is worth reading: the peer has
    /// moved on (PROTOCOL, liveness).
    mutating func notice(_ now: Instant) {
        defer { self.lastSeen = now }
        // Asked only when it may matter: the connection is copied for it.
        guard let lastSeen = self.lastSeen, now - lastSeen >= Constants.deadAfterAtLeast,
            let deadAfter = self.connection?.deadAfter, now - lastSeen > deadAfter
        else { return }
        self.closeCarriers(at: now) { _ in true }
    }

    // MARK: Messages

    /// A message came. The driver closes the carrier only when an event says so.
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

    /// The next message for this carrier, appended to the buffer. False: nothing for it now.
    public mutating func writeNext(into buffer: inout ByteBuffer, for carrier: CarrierID, at now: Instant) -> Bool {
        if let at = self.carriers.firstIndex(where: { $0.id == carrier }), let message = self.carriers[at].outbox {
            self.carriers[at].outbox = nil
            buffer.writeImmutableBuffer(message)
            return true
        }
        let wrote = self.connection?.writeNext(into: &buffer, onlyOn: carrier, at: now) ?? false
        if wrote, let at = self.carriers.firstIndex(where: { $0.id == carrier }) { self.carriers[at].isBound = true }
        // Room for more to write; or the end, where all numbers are used.
        if self.connection?.needsAttention ?? false { self.collectEvents(at: now) }
        return wrote
    }

    // MARK: Handshake

    mutating func initiate(on id: CarrierID, at now: Instant) {
        guard !self.isClosing, let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        let index = self.unusedIndex()
        let timestamp = max(self.lastTimestamp?.successor ?? self.wallClock(), self.wallClock())
        self.lastTimestamp = timestamp

        var payload = ByteBuffer()
        timestamp.write(into: &payload)
        self.configuration.tunnel.parameters(self.connectionID).write(into: &payload)
        let overhead = HandshakeMessage.initiationHeader + InitiatorHandshake.message1Overhead + HandshakeMessage.macs
        // In datagrams it has the size that the path must carry, and that no answer exceeds.
        let sizes = Constants.initiationSizes
        let size = self.carriers[at].kind == .datagrams ? Constants.baseDatagramSize : sizes.lowerBound
        let lacking = size - overhead - payload.readableBytes
        // A parameter of its own takes two bytes at least.
        if lacking > 0 { TransportParameters.writePadding(max(2, lacking), into: &payload) }

        var handshake = HandshakeMessage.withPrologue { prologue in
            InitiatorHandshake(
                staticKey: self.configuration.staticKey,
                responder: self.configuration.responder,
                presharedKey: self.configuration.presharedKey,
                prologue: prologue,
                random: self.random,
                arena: self.arena
            )
        }
        var message = ByteBuffer()
        message.writeInteger(OuterMessageType.initiation.rawValue, endianness: .little)
        message.writeInteger(index, endianness: .little)
        let room = InitiatorHandshake.message1Overhead + payload.readableBytes
        var isWritten = false
        message.writeWithOutputRawSpan(minimumWritableBytes: room) { output in
            isWritten = handshake.writeMessage1(payload: payload.readableBytesSpan, into: &output)
        }
        self.schedule(retryOf: at, at: now)
        // A responder's key of low order: no handshake can be had with it, and the wait for an answer will end in vain.
        guard isWritten else { return }
        let cookie = self.carriers[at].cookie.flatMap { now - $0.at < Constants.cookieLifetime ? $0.value : nil }
        let mac1 = HandshakeMessage.appendMacs(self.sendingMac, cookie: cookie, to: &message)

        // The responder has forgotten its half of the older ones.
        self.pending.removeAll { now - $0.sentAt >= Constants.unconfirmedLifetime }
        if self.pending.count >= Constants.handshakesInFlight { self.pending.removeFirst() }
        self.pending.append(
            Pending(
                localIndex: index,
                carrier: id,
                sentAt: now,
                timestamp: timestamp,
                mac1: mac1,
                handshake: handshake
            )
        )
        self.carriers[at].outbox = message
    }

    private mutating func schedule(retryOf at: Int, at now: Instant) {
        let attempts = self.carriers[at].attempts
        let waited = now - self.carriers[at].since
        let interval: TimeAmount
        if attempts < Constants.retrySchedule.count {
            interval = Constants.retrySchedule[attempts]
        } else {
            let base = waited < Constants.retryPatience ? Constants.retryInterval : Constants.retryIntervalLater
            let jitter = self.random.next() % UInt64(Constants.retryJitter.nanoseconds)
            interval = base + .nanoseconds(Int64(jitter))
        }
        self.carriers[at].attempts = min(attempts + 1, 1_000)
        self.carriers[at].retryAt = now + interval
    }

    /// Taken only with the mac1 of the latest initiation there, and used in the next retry, not sooner: who forges or repeats
    /// one gains nothing.
    private mutating func receiveCookie(
        _ message: ByteBuffer,
        from carrier: CarrierID,
        at now: Instant
    ) -> DropReason? {
        // On a byte stream nobody can forge an address.
        guard let at = self.carriers.firstIndex(where: { $0.id == carrier }), self.carriers[at].kind == .datagrams,
            let index: UInt32 = message.headerInteger(at: 4)
        else { return .malformed }
        guard let pending = self.pending.last(where: { $0.carrier == carrier }), pending.localIndex == index else {
            return .unknownIndex
        }
        guard let cookie = HandshakeMessage.readCookieReply(message, answering: pending.mac1, self.cookieKey) else {
            return .notOpened
        }
        self.carriers[at].cookie = (cookie, now)
        self.events.append(.sidecarIsBusy)
        return nil
    }

    private func unusedIndex() -> UInt32 {
        while true {
            let index = self.random.nextUInt32()
            let isUsed =
                self.pending.contains { $0.localIndex == index }
                || self.sessions.contains { $0.session.localIndex == index }
            if !isUsed { return index }
        }
    }

    private mutating func receiveResponse(
        _ message: ByteBuffer,
        from carrier: CarrierID,
        at now: Instant
    ) -> DropReason? {
        guard Constants.responseSizeAtLeast...Constants.initiationSizes.upperBound ~= message.readableBytes,
            let remoteIndex: UInt32 = message.headerInteger(at: 4),
            let localIndex: UInt32 = message.headerInteger(at: 8),
            let noise = HandshakeMessage.noisePart(of: message, header: HandshakeMessage.responseHeader)
        else { return .malformed }
        guard HandshakeMessage.hasValidMac1(message, self.receivingMac) else { return .wrongMac1 }
        guard let pending = self.pending.first(where: { $0.localIndex == localIndex }) else { return .unknownIndex }
        var payload = ByteBuffer()
        var keys: TransportKeys?
        payload.writeWithOutputRawSpan(minimumWritableBytes: noise.readableBytes) { output in
            keys = pending.handshake.readMessage2(noise.readableBytesSpan, payload: &output)
        }
        guard let keys else {
            self.events.append(.presharedKeysDiffer)
            return .notOpened
        }
        // From here on the response is the responder's own, and this handshake has had its answer.
        self.pending.removeAll { $0 === pending }
        guard let parameters = TransportParameters(reading: &payload) else { return .badParameters }
        // A connection that is closing is not carried on, nor is another begun beside it.
        if self.isClosing { return .staleResponse }
        if let madeBy = self.madeBy, self.connection != nil, pending.timestamp < madeBy { return .staleResponse }
        let session = keys.split { sending, receiving in
            Session(
                localIndex: localIndex,
                remoteIndex: remoteIndex,
                createdAt: pending.sentAt,
                peerParameters: parameters,
                sendingKey: sending,
                receivingKey: receiving
            )
        }
        // Later answers to what went out there before would be the same news, and their keys are no longer needed.
        self.pending.removeAll { $0.carrier == pending.carrier && $0.timestamp < pending.timestamp }
        self.adopt(session, of: pending, carrier: carrier, at: now)
        return nil
    }

    private mutating func adopt(_ session: Session, of pending: Pending, carrier: CarrierID, at now: Instant) {
        let timestamp = pending.timestamp
        if let at = self.carriers.firstIndex(where: { $0.id == carrier }) {
            if pending.carrier == carrier { self.carriers[at].handshakeTime = now - pending.sentAt }
            if !self.carriers[at].isAnswered || self.carriers[at].isDark { self.events.append(.answered(carrier)) }
            self.carriers[at].isAnswered = true
            self.carriers[at].isDark = false
            self.carriers[at].retryAt = nil
            self.carriers[at].attempts = 0
        }
        let answered = session.peerParameters.connectionID
        let isOurs = self.connection?.isActive ?? false && self.connection?.id == answered
        if !isOurs {
            self.endConnection(.forgottenByPeer, at: now)
            self.connectionID = answered
            self.madeBy = timestamp
            self.connection = Connection(
                role: .initiator,
                id: answered,
                configuration: self.configuration.tunnel,
                peerParameters: session.peerParameters,
                random: self.random,
                at: now
            )
        }
        self.sessions.append((session, timestamp))
        self.sessions.sort { $0.timestamp < $1.timestamp }
        if self.sessions.count > Constants.sessionsKept { self.sessions.removeFirst() }
        self.choose(isNew: !isOurs, at: now)
    }

    // MARK: The connection's end

    /// Ends the connection for a reason of ours; `.connection(.ended)` tells, as for any other.
    public mutating func close(_ code: ErrorCode, reason: String = "", at now: Instant) {
        self.connection?.close(code, reason: reason, at: now)
        self.collectEvents(at: now)
    }

    /// Whether a close still has to be told to the peer.
    public var isClosing: Bool {
        switch self.connection {
        case .some(let connection): connection.isClosing
        case .none: false
        }
    }

    private mutating func endConnection(_ origin: ConnectionEnd.Origin, at now: Instant) {
        self.connection?.end(ConnectionEnd(code: .noError, origin: origin, reason: ""), at: now)
        while let event = self.connection?.nextEvent() { self.events.append(.connection(event)) }
        self.dropConnection()
    }

    /// The connection is over for good: its keys go, and the next handshake names an id that nobody knows.
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
            // Of many messages that came at once, one event tells.
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
            // Here and not below: every `self.connection?` in a getter costs the compiler minutes.
            deadAfter = connection.deadAfter
        case .none: break
        }
        // Keys are erased when their time is over, used or not.
        if let oldest = self.sessions.first?.session { deadline = sooner(deadline, oldest.expiresAt) }
        if self.isClosing { return deadline }
        // Whoever waits idly must be seen now and then, or waiting would look like standing still.
        if !self.carriers.isEmpty, let lastSeen = self.lastSeen, let deadAfter {
            deadline = sooner(deadline, lastSeen + .nanoseconds(deadAfter.nanoseconds / 2))
        }
        for carrier in self.carriers {
            deadline = sooner(deadline, carrier.retryAt)
            // Datagrams that nobody answers may be answered later: nothing waits behind them.
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
        // What is closing needs no new keys.
        if self.isClosing { return }
        let active = self.connection?.carrier
        // With no session left there is all the more to do.
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
    /// Runs the body on the connection, in place, if there is one.
    public mutating func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.connection?.apply(body)
    }
}
