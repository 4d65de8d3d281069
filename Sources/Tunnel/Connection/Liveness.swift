import NIOCore

/// Whether the peer is alive, by when it last gave a sign of it, and how long it may take for the next one.
struct Liveness: Hashable {
    private(set) var presence = Presence.live
    /// The smaller of both sides' values.
    private(set) var deadAfter: TimeAmount
    /// The peer's last sign of life: it acknowledged a message of ours, a newer session was confirmed, or the connection
    /// changed carriers.
    private(set) var aliveAt: Instant
    /// When we last asked for one: an ack-eliciting message was sent, or will be as soon as it can.
    private(set) var elicitedAt: Instant
    /// Probe timeouts since the last acknowledgement.
    private(set) var probeCount = 0
    /// When the connection's last carrier closed.
    private var carrierLostAt: Instant?
    /// Since when the connection has had no carrier to send on: from its beginning, or from when the one in use closed.
    private var unusedSince: Instant?
    /// The byte stream beside the datagrams ended then: the peer must give a sign of life within `carrierGrace`.
    private var signWantedAt: Instant?
    private var newestSessionAt: Instant?

    init(deadAfter: TimeAmount, at now: Instant) {
        self.deadAfter = deadAfter
        self.aliveAt = now
        self.elicitedAt = now
        self.unusedSince = now
    }

    var wantsSign: Bool { self.signWantedAt != nil }

    // MARK: What happens

    /// False: nothing changes.
    mutating func become(_ presence: Presence) -> Bool {
        defer { self.presence = presence }
        return self.presence != presence
    }

    mutating func signOfLife(at now: Instant) { self.aliveAt = now }

    /// - Returns: whether that is a sign of life. Only a session newer than all before is one: a peer that alternates between
    ///   its sessions shows nothing new.
    mutating func sessionChanged(to createdAt: Instant, deadAfter: TimeAmount) -> Bool {
        self.deadAfter = deadAfter
        guard self.newestSessionAt.map({ createdAt > $0 }) ?? true else { return false }
        self.newestSessionAt = createdAt
        return true
    }

    /// Probe timeout and keep-alive count from now on.
    mutating func carrierChanged(at now: Instant) {
        self.carrierLostAt = nil
        self.unusedSince = nil
        self.signWantedAt = nil
        self.probeCount = 0
        self.elicitedAt = now
    }

    mutating func carrierInUseClosed(at now: Instant) { self.unusedSince = now }

    mutating func lastCarrierClosed(at now: Instant) { self.carrierLostAt = self.carrierLostAt ?? now }

    /// The peer has opened a carrier, which the connection doesn't use yet.
    mutating func carrierOpened() { self.carrierLostAt = nil }

    /// False: a sign is wanted already.
    mutating func wantSign(at now: Instant) -> Bool {
        guard self.signWantedAt == nil else { return false }
        self.signWantedAt = now
        return true
    }

    /// A message that was sent then on the carrier in use was acknowledged.
    mutating func acknowledged(sentAt: Instant) {
        if let signWantedAt, sentAt >= signWantedAt { self.signWantedAt = nil }
    }

    /// The backoff of the probe timeout ends.
    mutating func stopBackoff() { self.probeCount = 0 }

    mutating func elicited(at now: Instant) { self.elicitedAt = now }

    /// The next probe timeout counts from here, whether or not this probe can be sent.
    mutating func probed(at now: Instant) {
        self.probeCount += 1
        self.elicitedAt = now
    }

    // MARK: Deadlines

    /// A relay is suspected when it has been silent for a while, since nothing else may tell that it is dead. It isn't while any of
    /// our messages are acknowledged, however long they wait in its programs' buffers.
    ///
    /// - Parameter oldest: when the oldest message in flight was sent.
    func suspicionDeadline(oldest: Instant?, on path: borrowing Path) -> Instant? {
        let atMost = self.deadAfter.nanoseconds / 3
        guard path.isRelayed else { return oldest.map { $0 + .nanoseconds(atMost) } }
        let silence = Constants.relaySilence
        let timeouts = silence.timeouts * path.roundTripTime.probeTimeout.nanoseconds
        let patience = min(atMost, max(self.deadAfter.nanoseconds / silence.part, timeouts))
        return oldest.map { max($0, self.aliveAt) + .nanoseconds(patience) }
    }

    func goneDeadline(_ role: Role) -> Instant {
        var unanswered = self.aliveAt + self.deadAfter
        if let signWantedAt { unanswered = min(unanswered, signWantedAt + Constants.carrierGrace) }
        // Only the responder takes the loss of its last carrier as a sign that the peer is gone: the initiator dials again
        // itself.
        guard role == .responder, let carrierLostAt else { return unanswered }
        return min(unanswered, carrierLostAt + Constants.carrierGrace)
    }

    /// RFC 9002 §6.2, for a connection with messages in flight. On datagrams the backoff ends at D/3, so that the peer is
    /// probed several times before it counts as gone, however long the round trip was.
    func probeDeadline(_ path: borrowing Path) -> Instant {
        var backoff = path.roundTripTime.probeTimeout.nanoseconds << Int64(min(self.probeCount, 10))
        if path.usesDatagrams { backoff = min(backoff, self.deadAfter.nanoseconds / 3) }
        return self.elicitedAt + .nanoseconds(backoff)
    }

    /// An initiator on datagrams sends keep-alives four times as often while somebody waits: only the initiator can choose
    /// another carrier, and it learns that this one is blocked only when its own messages stay unacknowledged.
    func keepAliveDeadline(isOften: Bool) -> Instant {
        self.elicitedAt + .nanoseconds(self.deadAfter.nanoseconds / (isOften ? 12 : 3))
    }

    func lingerDeadline(_ linger: TimeAmount) -> Instant? { self.unusedSince.map { $0 + linger } }
}

extension Connection {
    /// Whether the peer answers.
    public var presence: Presence { self.liveness.presence }
    var deadAfter: TimeAmount { self.liveness.deadAfter }

    var suspicionDeadline: Instant? {
        self.liveness.suspicionDeadline(oldest: self.sent.oldestTime, on: self.path)
    }

    /// Messages arrive as far as is known: none has gone without an acknowledgement for longer than a probe timeout.
    public func answersInTime(at now: Instant) -> Bool {
        guard self.hasCarrier, self.presence == .live else { return false }
        guard let oldest = self.sent.oldestTime else { return true }
        return now <= max(oldest, self.liveness.aliveAt) + self.roundTripTime.probeTimeout
    }

    /// The way to the peer leads through other programs, and has been silent for longer than it should be.
    public var isRelaySilent: Bool { self.path.isRelayed && self.presence != .live }

    mutating func noteAlive(at now: Instant) {
        self.liveness.signOfLife(at: now)
        // An acknowledgement doesn't end the suspicion while an older message is still unacknowledged for too long.
        let isLate = self.carrier != nil && self.suspicionDeadline.map { now >= $0 } ?? false
        let isSuspected = isLate || self.liveness.wantsSign
        self.setPresence(isSuspected ? .suspected : .live)
    }

    mutating func setPresence(_ presence: Presence) {
        guard self.isActive, self.liveness.become(presence) else { return }
        // Queued datagrams would arrive too late to be useful: drop them.
        if presence == .gone { self.statistics.datagramsDropped += self.datagrams.dropOutgoing() }
        self.events.append(.presence(presence))
    }
}
