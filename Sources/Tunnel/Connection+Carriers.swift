import NIOCore

extension Connection {
    /// From now on messages go this way, sealed with this session. What nobody acknowledged elsewhere is sent again.
    mutating func move(to carrier: CarrierID, session: Session, at now: Instant) {
        if self.session !== session {
            self.session = session
            self.noteDatagramLimits(of: session)
            self.statistics.sessions += 1
            self.deadAfter = min(self.configuration.deadAfter, session.peerParameters.deadAfter)
            // A message at once confirms the session to the responder.
            if self.role == .initiator { self.pingIsPending = true }
            self.noteAlive(at: now)
        }
        guard self.carrier != carrier else { return }
        self.carrier = carrier
        self.carrierLostAt = nil
        self.statistics.carriers += 1
        self.roundTripTime = RoundTripTime()
        self.loseAll(exceptOn: carrier)
        self.received.ackSoon()
        self.pingIsPending = true
        self.probeCount = 0
        self.noteAlive(at: now)
        // What waits for an answer is judged from now on.
        self.elicitedAt = now
    }

    /// The end of a carrier: nothing more can be learned of what was sent on it.
    mutating func carrierClosed(_ carrier: CarrierID, isLast: Bool, at now: Instant) {
        if self.carrier == carrier {
            self.carrier = nil
            self.loseAll(exceptOn: nil)
            if case .closing = self.state { self.wipe() }
        }
        if isLast, self.carrierLostAt == nil { self.carrierLostAt = now }
    }

    // MARK: Liveness

    mutating func noteAlive(at now: Instant) {
        self.aliveAt = now
        // One sign of life doesn't answer what has been unanswered for too long.
        let isSuspected = self.carrier != nil && self.suspicionDeadline.map { now >= $0 } ?? false
        self.setPresence(isSuspected ? .suspected : .live)
    }

    private mutating func setPresence(_ presence: Presence) {
        guard self.presence != presence, self.isActive else { return }
        self.presence = presence
        self.events.append(.presence(presence))
    }

    /// When the application next has to hear of time: `handleDeadline` then.
    public var nextDeadline: Instant? {
        switch self.state {
        case .closed: return nil
        case .closing(_, let until): return until
        case .active: break
        }
        var deadline: Instant?
        if self.carrier != nil {
            deadline = sooner(self.received.deadline, self.elicitedAt + self.keepAliveInterval)
            deadline = sooner(deadline, self.probeDeadline)
            if self.presence == .live { deadline = sooner(deadline, self.suspicionDeadline) }
        }
        if self.presence != .gone { deadline = sooner(deadline, self.goneDeadline) }
        if let carrierLostAt = self.carrierLostAt {
            deadline = sooner(deadline, carrierLostAt + self.configuration.linger)
        }
        return deadline
    }

    private var keepAliveInterval: TimeAmount { .nanoseconds(self.deadAfter.nanoseconds / 3) }

    private var suspicionDeadline: Instant? {
        self.sent.oldestTime.map { $0 + .nanoseconds(self.deadAfter.nanoseconds / 3) }
    }

    private var goneDeadline: Instant {
        let unanswered = self.aliveAt + self.deadAfter
        // Only the responder takes the loss of the last carrier for a sign: the initiator is the one who dials.
        guard self.role == .responder, let carrierLostAt = self.carrierLostAt else { return unanswered }
        return min(unanswered, carrierLostAt + Constants.carrierGrace)
    }

    /// RFC 9002 §6.2: on a byte stream a probe timeout sends a PING and nothing else.
    private var probeDeadline: Instant? {
        guard !self.sent.isEmpty else { return nil }
        let backoff = self.roundTripTime.probeTimeout.nanoseconds << Int64(min(self.probeCount, 10))
        return self.elicitedAt + .nanoseconds(backoff)
    }

    /// Does what is due. Calling it too early or twice does nothing.
    mutating func handleDeadline(at now: Instant) {
        switch self.state {
        case .closed: return
        case .closing(_, let until):
            if now >= until { self.wipe() }
            return
        case .active: break
        }
        if let carrierLostAt = self.carrierLostAt, now >= carrierLostAt + self.configuration.linger {
            self.end(ConnectionEnd(code: .noError, origin: .lingerOver, reason: ""), at: now)
            return
        }
        if self.presence != .gone, now >= self.goneDeadline {
            self.setPresence(.gone)
        }
        guard self.carrier != nil else { return }
        self.received.handleDeadline(at: now)
        if self.presence == .live, let suspicion = self.suspicionDeadline, now >= suspicion {
            self.setPresence(.suspected)
        }
        if let probe = self.probeDeadline, now >= probe {
            self.probeCount += 1
            self.pingIsPending = true
            // Sent or not, the next one is counted from here.
            self.elicitedAt = now
        }
        if now >= self.elicitedAt + self.keepAliveInterval {
            self.pingIsPending = true
            self.elicitedAt = now
        }
    }
}
