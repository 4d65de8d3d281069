public import NIOCore
public import Noise

/// The sidecar's half of its tunnels: answers the keys it accepts, is silent to all others, and holds one connection for each
/// key.
///
/// Sans-I/O: the driver reports carriers and received messages, and pulls messages and events.
///
/// ```
///   carrier ── valid initiation ──▶ response, unconfirmed session ── first data ──▶ connection (held, or new)
///      └── none within 5 s ──▶ closed without a byte
/// ```
public struct Responder: ~Copyable {
    public enum Event: Equatable, Sendable {
        /// A new connection of this key. The end of an earlier one was reported before.
        case established(PublicKey)
        /// The key's connection goes on after its carrier was lost.
        case resumed(PublicKey)
        /// The connection changed to another carrier or path, and was never without one.
        case moved(PublicKey)
        /// An initiation that had to wait for its turn was valid: the carrier is a known key's.
        case answered(CarrierID)
        case closeCarrier(CarrierID)
        case connection(PublicKey, ConnectionEvent)
    }

    let staticKey: StaticKeyPair
    let configuration: TunnelConfiguration
    let random: RandomSource
    let arena = SecretArena()
    let receivingMac: MacKey
    let cookieKey: CookieKey

    public internal(set) var drops = DropCounters()
    /// The timestamps of the last initiation that was dropped as too old, for the log.
    public internal(set) var lastOldTimestamp: (sent: TAI64N, greatest: TAI64N)?
    var peers: [PublicKey: AcceptedPeer] = [:]
    var carriers: [Carrier] = []
    var sessions: [UInt32: ResponderSession] = [:]
    var handshakeBudget = HandshakeBudget(
        perSecond: Constants.handshakeBudgetPerSecond,
        atOnce: Constants.handshakesAtOnce
    )
    /// How many byte streams have an initiation that waits for its turn, and the stream that had the last turn.
    var waitingInitiations = 0
    var lastTurn = CarrierID(0)
    /// The budget for initiations in datagrams, whose source addresses may be forged.
    var admission: DatagramAdmission
    /// Responses and cookie replies that wait for the socket. Cookie replies, which a flood provokes, never displace
    /// responses.
    var responses = CircularBuffer<(route: DatagramRoute, message: ByteBuffer)>()
    var cookieReplies = CircularBuffer<(route: DatagramRoute, message: ByteBuffer)>()
    var turn = DatagramTurn()
    let memory: StreamMemory
    /// The connection that wrote the last datagram, while it has more.
    var lastWriter: Link?
    /// Datagram paths get carrier numbers too, from the upper half of the range.
    var nextPath: UInt64 = 1 << 63
    var plaintext = PlaintextPool()
    /// Frames in the last received message: a measure of the work that it took.
    public internal(set) var framesInLastMessage = 0
    var lastSeen: Instant?
    var events = CircularBuffer<Event>()
    private var someAreReadable = false

    public init(staticKey: StaticKeyPair, configuration: TunnelConfiguration, random: RandomSource) {
        self.staticKey = staticKey
        self.configuration = configuration
        self.memory = StreamMemory(configuration)
        self.random = random
        self.receivingMac = MacKey(receiver: staticKey.publicKey)
        self.cookieKey = CookieKey(responder: staticKey.publicKey)
        self.admission = DatagramAdmission(random: random)
    }

    var liveSecrets: Int { self.arena.liveSecrets }

    /// Peers, connections and sessions refer to each other: keys are erased only once these cycles are broken.
    deinit {
        for peer in self.peers.values { peer.letGo() }
        for peer in self.revoked { peer.letGo() }
        self.lastWriter?.letGo()
    }

    // MARK: Keys

    public mutating func accept(_ key: PublicKey, presharedKey: PresharedKey = .none) {
        if let peer = self.peers[key] {
            peer.presharedKey = presharedKey
        } else {
            self.peers[key] = AcceptedPeer(key: key, presharedKey: presharedKey)
        }
    }

    public var acceptedKeys: [PublicKey] { Array(self.peers.keys) }

    /// Stops accepting the key: its connection ends with REVOKED, and its unconfirmed sessions are dropped.
    public mutating func revoke(_ key: PublicKey, at now: Instant) {
        guard let peer = self.peers.removeValue(forKey: key) else { return }
        self.revoked.append(peer)
        defer { self.forgetRevoked() }
        for session in peer.unconfirmed { self.sessions[session.session.localIndex] = nil }
        peer.unconfirmed.removeAll()
        guard let link = peer.current else { return }
        link.connection.close(.revoked, at: now)
        self.collectEvents(link, at: now)
    }

    /// Peers whose keys were revoked, while they still have to be told.
    var revoked: [AcceptedPeer] = []

    // MARK: The connections

    /// This key's connection, once the owner has taken its `.established`. A replacement connection stays invisible until
    /// then, so events of the old one can't be applied to it.
    public func link(of key: PublicKey) -> Link? {
        guard let link = self.peers[key]?.current, link.isAnnounced else { return nil }
        return link
    }

    public func withConnection<Result>(of key: PublicKey, _ body: (inout Connection) -> Result) -> Result? {
        self.link(of: key)?.withConnection(body)
    }

    public var hasConnections: Bool {
        self.peers.values.contains { $0.current != nil || !$0.closing.isEmpty } || !self.revoked.isEmpty
    }

    /// Ends the key's connection for a reason of ours.
    public mutating func close(_ key: PublicKey, _ code: ErrorCode, reason: String = "", at now: Instant) {
        guard let link = self.peers[key]?.current else { return }
        link.connection.close(code, reason: reason, at: now)
        self.collectEvents(link, at: now)
    }

    // MARK: Carriers

    /// - Parameter kind: a byte stream's.
    public mutating func carrierOpened(_ id: CarrierID, _ kind: CarrierKind = .stream, at now: Instant) {
        self.notice(now)
        // A flood of strangers displaces strangers only: the one that has waited longest.
        if self.carriers.count(where: { !$0.isKnown }) >= Constants.waitingCarriers,
            let longest = self.carriers.first(where: { !$0.isKnown })
        {
            self.dropCarrier(longest.id, at: now)
        }
        self.carriers.append(Carrier(id: id, kind: kind, openedAt: now, closeAt: now + Constants.silenceBeforeClose))
    }

    public mutating func carrierClosed(_ id: CarrierID, at now: Instant) {
        self.notice(now)
        self.forgetCarrier(id, at: now)
    }

    /// The key of the connection on this carrier, or of the initiation that was answered on it; nil while it is a stranger's.
    public func key(of carrier: CarrierID) -> PublicKey? {
        let carrier = self.carriers.first { $0.id == carrier }
        return (carrier?.link?.peer ?? carrier?.asker)?.key
    }

    mutating func dropCarrier(_ id: CarrierID, at now: Instant) {
        self.events.append(.closeCarrier(id))
        self.forgetCarrier(id, at: now)
    }

    private mutating func forgetCarrier(_ id: CarrierID, at now: Instant) {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        let carrier = self.carriers.remove(at: at)
        if carrier.waiting != nil { self.waitingInitiations -= 1 }
        guard let link = carrier.link else { return }
        link.carriers.removeAll { $0 == id }
        let usesDatagrams = link.usesDatagrams
        link.connection.carrierClosed(id, isLast: link.carriers.isEmpty && !usesDatagrams, at: now)
        if usesDatagrams, link.carriers.isEmpty { link.connection.streamEndedBesides(at: now) }
        self.collectEvents(link, at: now)
    }

    /// See `Initiator.notice`.
    mutating func notice(_ now: Instant) {
        defer { self.lastSeen = now }
        guard let lastSeen = self.lastSeen, now - lastSeen >= Constants.deadAfterAtLeast else { return }
        for carrier in self.carriers {
            guard let link = carrier.link, now - lastSeen > link.connection.deadAfter else { continue }
            self.dropCarrier(carrier.id, at: now)
        }
        var asleep: [Link] = []
        self.forEachLink { if $0.path != nil, now - lastSeen > $0.connection.deadAfter { asleep.append($0) } }
        for link in asleep {
            self.leavePath(of: link, at: now)
            self.collectEvents(link, at: now)
        }
    }

    // MARK: Messages

    public mutating func receive(_ message: ByteBuffer, from carrier: CarrierID, at now: Instant) -> MessageVerdict {
        self.notice(now)
        self.framesInLastMessage = 0
        guard let at = self.carriers.firstIndex(where: { $0.id == carrier }) else {
            return self.drops.count(.otherConnection)
        }
        guard let type = OuterMessageType(of: message) else { return self.drops.count(.malformed) }
        let dropped: DropReason?
        switch type {
        case .data: dropped = self.receiveData(message, carrierAt: at, at: now)
        case .initiation:
            if let read = ReceivedInitiation(message, self.receivingMac) {
                return self.admit(read, onCarrierAt: at, at: now)
            }
            dropped = ReceivedInitiation.whyNot(message)
        case .response, .cookieReply: dropped = .wrongRole
        }
        guard let dropped else { return .taken }
        return self.drops.count(dropped)
    }

    private mutating func receiveData(_ message: ByteBuffer, carrierAt at: Int, at now: Instant) -> DropReason? {
        guard let header = DataHeader(of: message) else { return .malformed }
        guard let entry = self.sessions[header.receiver] else { return .unknownIndex }
        // A carrier begins with an initiation. From its first session on it belongs to that one connection.
        guard self.carriers[at].isKnown else { return .otherConnection }
        if let bound = self.carriers[at].link, !bound.owns(entry) { return .otherConnection }
        var plaintext = self.plaintext.take(forMessageOf: message.readableBytes)
        if let reason = entry.session.open(message, header, into: &plaintext, at: now) {
            if entry.session.isWornOut { self.remove(entry) }
            return reason
        }
        let number = header.counter
        // Read here: binding this carrier may drop another.
        let (id, kind) = (self.carriers[at].id, self.carriers[at].kind)
        guard let link = entry.link ?? self.confirm(entry, at: now) else { return .keyTooOld }
        self.bind(id, to: link, at: now)
        // A message without frames shows that a carrier belongs to the connection, and doesn't move the connection. While the
        // connection has no carrier, even a message that was overtaken moves it here.
        if plaintext.readableBytes > 0,
            link.connection.isNewest(number) || link.connection.isActive && !link.connection.hasCarrier
        {
            self.move(link, to: id, kind, session: entry.session, at: now)
        }
        self.framesInLastMessage =
            link.connection.receive(frames: plaintext, number: number, bytes: message.readableBytes, at: now)
        self.plaintext.giveBack(plaintext)
        self.collectWhatIsUrgent(link, at: now)
        return nil
    }

    mutating func move(_ link: Link, to id: CarrierID, _ kind: CarrierKind, session: Session, at now: Instant) {
        let before = link.connection.carrier
        let isFirst = link.connection.statistics.carriers == 0
        link.connection.move(to: id, kind, session: session, at: now)
        guard before != id, !isFirst else { return }
        self.events.append(before == nil ? .resumed(link.peer.key) : .moved(link.peer.key))
    }

    private mutating func bind(_ id: CarrierID, to link: Link, at now: Instant) {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }), self.carriers[at].link == nil else { return }
        self.carriers[at].link = link
        self.carriers[at].asker = nil
        self.carriers[at].closeAt = nil
        link.carriers.append(id)
        link.connection.liveness.carrierOpened()
        if link.carriers.count > Constants.carriersPerConnection,
            let idle = link.carriers.first(where: { $0 != link.connection.carrier && $0 != id })
        {
            self.dropCarrier(idle, at: now)
        }
    }

    /// Appends the next message for this carrier to the buffer. False: there is none now.
    public mutating func writeNext(into buffer: inout ByteBuffer, for carrier: CarrierID, at now: Instant) -> Bool {
        guard let at = self.carriers.firstIndex(where: { $0.id == carrier }) else { return false }
        if !self.carriers[at].outbox.isEmpty {
            buffer.writeImmutableBuffer(self.carriers[at].outbox.removeFirst())
            return true
        }
        guard let link = self.carriers[at].link, link.connection.carrier == carrier else { return false }
        let wrote = link.connection.writeNext(into: &buffer, at: now) != nil
        // Sending may have made streams writable again, or used up the message numbers, which ends the connection.
        self.collectEvents(link, at: now)
        return wrote
    }

    // MARK: Ends

    mutating func remove(_ entry: ResponderSession) {
        self.sessions[entry.session.localIndex] = nil
        entry.peer.unconfirmed.removeAll { $0 === entry }
        entry.link?.sessions.removeAll { $0 === entry }
        if entry.link?.candidate?.session === entry.session { entry.link?.candidate = nil }
        entry.link?.connection.forget(entry.session)
    }

    /// Retires a connection that has ended: it keeps its sessions until its closing period is over (RFC 9000 §10.2).
    mutating func retire(_ link: Link) {
        if link.peer.current === link { link.peer.current = nil }
        if link.connection.isFinished {
            self.discard(link)
        } else if !link.peer.closing.contains(where: { $0 === link }) {
            if link.peer.closing.count >= Constants.sessionsKept, let oldest = link.peer.closing.first {
                self.discard(oldest)
            }
            link.peer.closing.append(link)
            // CONNECTION_CLOSE goes out on the carrier in use; the other streams serve no purpose any more.
            for id in link.carriers where id != link.connection.carrier {
                self.carriers.removeAll { $0.id == id }
                self.events.append(.closeCarrier(id))
            }
            link.carriers.removeAll { $0 != link.connection.carrier }
        }
    }

    private mutating func discard(_ link: Link) {
        if self.lastWriter === link { self.lastWriter = nil }
        link.connection.wipe()
        link.candidate = nil
        link.peer.closing.removeAll { $0 === link }
        if link.peer.current === link { link.peer.current = nil }
        for entry in link.sessions { self.sessions[entry.session.localIndex] = nil }
        link.sessions.removeAll()
        for id in link.carriers {
            self.carriers.removeAll { $0.id == id }
            self.events.append(.closeCarrier(id))
        }
        link.carriers.removeAll()
    }

    /// Called after a message was received. Events that can wait are collected when the owner next asks for events.
    mutating func collectWhatIsUrgent(_ link: Link, at now: Instant) {
        if link.connection.needsAttention {
            self.collectEvents(link, at: now)
        } else if link.connection.hasEvents {
            self.someAreReadable = true
        }
    }

    private mutating func collectReadable() {
        guard self.someAreReadable, let now = self.lastSeen else { return }
        self.someAreReadable = false
        var links: [Link] = []
        self.forEachLink { if $0.connection.hasEvents { links.append($0) } }
        for link in links { self.collectEvents(link, at: now) }
    }

    mutating func collectEvents(_ link: Link, at now: Instant) {
        var isGone = false
        while let event = link.connection.nextEvent() {
            if event == .presence(.gone) { isGone = true }
            // For many messages that arrived together, one `.readable` is enough.
            if event.isReadable, self.events.last == .connection(link.peer.key, event) { continue }
            self.events.append(.connection(link.peer.key, event))
        }
        if !link.connection.isActive {
            self.retire(link)
        } else if isGone {
            for id in link.carriers { self.dropCarrier(id, at: now) }
            self.leavePath(of: link, at: now)
        }
    }

    // MARK: Events and time

    public mutating func nextEvent() -> Event? {
        if self.events.isEmpty { self.collectReadable() }
        let event = self.events.popFirst()
        // The last `.established` of a key is that of its current connection.
        if case .established(let key) = event, !self.events.contains(.established(key)) {
            self.peers[key]?.current?.isAnnounced = true
        }
        return event
    }

    func forEachLink(_ body: (Link) -> Void) {
        for peer in self.peers.values {
            if let link = peer.current { body(link) }
            for link in peer.closing { body(link) }
        }
        for peer in self.revoked {
            for link in peer.closing { body(link) }
        }
    }

    public var nextDeadline: Instant? {
        var deadline: Instant?
        for carrier in self.carriers { deadline = sooner(deadline, carrier.closeAt) }
        deadline = sooner(deadline, self.nextTurn)
        for peer in self.peers.values {
            if let oldest = peer.unconfirmed.first {
                deadline = sooner(deadline, oldest.session.createdAt + Constants.unconfirmedLifetime)
            }
        }
        self.forEachLink { link in
            deadline = sooner(deadline, link.connection.nextDeadline)
            deadline = sooner(deadline, link.candidate?.sendAt)
            // See `Initiator.nextDeadline`.
            if !link.carriers.isEmpty || link.path != nil, let lastSeen = self.lastSeen {
                deadline = sooner(deadline, lastSeen + .nanoseconds(link.connection.deadAfter.nanoseconds / 2))
            }
            // Keys are erased when they expire, used or not.
            for entry in link.sessions { deadline = sooner(deadline, entry.session.expiresAt) }
        }
        return deadline
    }

    public mutating func handleDeadline(at now: Instant) {
        self.notice(now)
        self.takeTurns(at: now)
        for carrier in self.carriers {
            if let closeAt = carrier.closeAt, now >= closeAt { self.dropCarrier(carrier.id, at: now) }
        }
        for peer in self.peers.values {
            for entry in peer.unconfirmed where now >= entry.session.createdAt + Constants.unconfirmedLifetime {
                self.remove(entry)
            }
            peer.expected.removeAll { now >= $0.madeAt + Constants.unconfirmedLifetime }
        }
        var links: [Link] = []
        self.forEachLink { links.append($0) }
        for link in links {
            link.connection.handleDeadline(at: now)
            link.handleCandidate(at: now)
            self.nudge(link, at: now)
            for entry in link.sessions where entry.session.isExpired(at: now) { self.remove(entry) }
            self.collectEvents(link, at: now)
        }
        self.forgetRevoked()
    }

    private mutating func forgetRevoked() { self.revoked.removeAll { $0.closing.isEmpty } }
}
