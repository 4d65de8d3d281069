import NIOCore

extension Connection {
    /// Moves the connection: from now on messages go out on this carrier, sealed with this session. Frames that are
    /// unacknowledged on other carriers are sent again.
    ///
    /// - Parameter roundTrip: how long the handshake took on this carrier: the round-trip estimate until there is a sample.
    mutating func move(
        to carrier: CarrierID,
        _ kind: CarrierKind,
        session: Session,
        roundTrip: TimeAmount? = nil,
        at now: Instant
    ) {
        if self.session !== session {
            self.session = session
            self.noteDatagramLimits(of: session)
            self.statistics.sessions += 1
            self.deadAfter = min(self.configuration.deadAfter, session.peerParameters.deadAfter)
            // Sent at once, a PING confirms the session to the responder (PROTOCOL §7.2).
            if self.role == .initiator { self.queues.addPing() }
            // Only a session newer than all before is a sign of life: a peer that alternates between its sessions shows
            // nothing new.
            if self.newestSessionAt.map({ session.createdAt > $0 }) ?? true {
                self.newestSessionAt = session.createdAt
                self.noteAlive(at: now)
            }
        }
        guard self.carrier != carrier else { return }
        self.path = Path(
            carrier,
            recovery: kind == .datagrams ? self.makeRecovery(session) : nil,
            roundTrip: roundTrip
        )
        self.carrierLostAt = nil
        self.unusedSince = nil
        self.statistics.carriers += 1
        self.loseAll(exceptOn: carrier)
        self.received.isPrompt = kind == .datagrams
        self.pathValidation.carrierChanged()
        self.signWantedAt = nil
        self.received.ackSoon()
        self.queues.addPing()
        self.probeCount = 0
        self.noteAlive(at: now)
        // Probe timeout and keep-alive count from now on.
        self.elicitedAt = now
    }

    /// Whether this message number is higher than all that the connection has received, and remembers it if so. False once
    /// the connection has ended.
    mutating func isNewest(_ number: UInt64) -> Bool {
        self.isActive && self.numbers.isNewest(number)
    }

    private func makeRecovery(_ session: Session) -> DatagramRecovery {
        let greatest = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        return DatagramRecovery(
            algorithm: self.configuration.congestionAlgorithm,
            greatestMessage: min(greatest, Constants.greatestDatagramSize),
            random: self.random.next()
        )
    }

    /// A carrier has closed. If the connection used it, all that is unacknowledged on it counts as lost.
    mutating func carrierClosed(_ carrier: CarrierID, isLast: Bool, at now: Instant) {
        if self.carrier == carrier {
            self.path.close()
            self.unusedSince = now
            self.loseAll(exceptOn: nil)
            if case .closing = self.state { self.wipe() }
        }
        if isLast, self.carrierLostAt == nil { self.carrierLostAt = now }
    }

    /// The byte stream that stood by beside the datagrams has ended, as happens when the peer's program ends. The peer now
    /// has `carrierGrace`, as after the loss of the last carrier, to acknowledge a PING before it counts as gone.
    mutating func streamEndedBesides(at now: Instant) {
        guard self.isActive, self.usesDatagrams, self.signWantedAt == nil else { return }
        self.signWantedAt = now
        self.queues.addPing()
        // While the peer is suspected, a new stream carries its header alone, so that its connection can still be handed over
        // (PROTOCOL, waiting).
        self.setPresence(.suspected)
    }

    // MARK: Liveness

    mutating func noteAlive(at now: Instant) {
        self.aliveAt = now
        // An acknowledgement doesn't end the suspicion while an older message is still unacknowledged for too long.
        let isLate = self.carrier != nil && self.suspicionDeadline.map { now >= $0 } ?? false
        let isSuspected = isLate || self.signWantedAt != nil
        self.setPresence(isSuspected ? .suspected : .live)
    }

    private mutating func setPresence(_ presence: Presence) {
        guard self.presence != presence, self.isActive else { return }
        self.presence = presence
        // Queued datagrams would arrive too late to be useful: drop them.
        if presence == .gone { self.statistics.datagramsDropped += self.datagrams.dropOutgoing() }
        self.events.append(.presence(presence))
    }

    /// When the owner must call `handleDeadline` next.
    public var nextDeadline: Instant? {
        switch self.state {
        case .closed: return nil
        case .closing(_, let until): return until
        case .active: break
        }
        var deadline: Instant?
        if self.carrier != nil {
            deadline = sooner(self.received.deadline, self.elicitedAt + self.keepAliveInterval)
            deadline = sooner(deadline, self.recovery?.lossTime ?? self.probeDeadline)
            deadline = sooner(deadline, self.recovery?.pacedUntil)
            deadline = sooner(deadline, self.heldDeadline)
            if self.presence == .live { deadline = sooner(deadline, self.suspicionDeadline) }
        }
        if self.presence != .gone { deadline = sooner(deadline, self.goneDeadline) }
        if let unusedSince = self.unusedSince {
            deadline = sooner(deadline, unusedSince + self.configuration.linger)
        }
        return deadline
    }

    /// While streams are open, an initiator on datagrams sends keep-alives four times as often: only the initiator can choose
    /// another carrier, and it learns that this one is blocked only when its own messages stay unacknowledged.
    private var keepAliveInterval: TimeAmount {
        let isAwaited = self.usesDatagrams && self.role == .initiator && self.openStreamCount > 0
        return .nanoseconds(self.deadAfter.nanoseconds / (isAwaited ? 12 : 3))
    }

    private var suspicionDeadline: Instant? {
        self.sent.oldestTime.map { $0 + .nanoseconds(self.deadAfter.nanoseconds / 3) }
    }

    private var goneDeadline: Instant {
        var unanswered = self.aliveAt + self.deadAfter
        if let signWantedAt { unanswered = min(unanswered, signWantedAt + Constants.carrierGrace) }
        // Only the responder takes the loss of its last carrier as a sign that the peer is gone: the initiator dials again
        // itself.
        guard self.role == .responder, let carrierLostAt = self.carrierLostAt else { return unanswered }
        return min(unanswered, carrierLostAt + Constants.carrierGrace)
    }

    /// RFC 9002 §6.2. On datagrams the backoff ends at D/3, so that the peer is probed several times before it counts as
    /// gone, however long the round trip was.
    private var probeDeadline: Instant? {
        guard !self.sent.isEmpty else { return nil }
        var backoff = self.roundTripTime.probeTimeout.nanoseconds << Int64(min(self.probeCount, 10))
        if self.usesDatagrams { backoff = min(backoff, self.deadAfter.nanoseconds / 3) }
        return self.elicitedAt + .nanoseconds(backoff)
    }

    /// Does what is due. Calling it too early or twice does nothing.
    mutating func handleDeadline(at now: Instant) {
        switch self.state {
        case .closed: return
        case .closing(let end, let until):
            guard now >= until else { return }
            if self.carrier != nil, self.waitsForRoomToClose(end, at: now) {
                self.state = .closing(end, until: now + self.roundTripTime.probeTimeout)
            } else {
                self.wipe()
            }
            return
        case .active: break
        }
        if let unusedSince = self.unusedSince, now >= unusedSince + self.configuration.linger {
            self.end(ConnectionEnd(code: .noError, origin: .lingerOver, reason: ""), at: now)
            return
        }
        if self.presence != .gone, now >= self.goneDeadline {
            self.setPresence(.gone)
        }
        guard self.carrier != nil else { return }
        self.checkHeld(at: now)
        self.growIfUsed()
        self.received.handleDeadline(at: now)
        if self.presence == .live, let suspicion = self.suspicionDeadline, now >= suspicion {
            self.setPresence(.suspected)
        }
        // The pacer's wait is over. It is cleared whether or not the message can be sent, or this deadline would stay in the
        // past.
        if let pacedUntil = self.recovery?.pacedUntil, now >= pacedUntil { self.recovery?.pacedUntil = nil }
        if let lossTime = self.recovery?.lossTime {
            if now >= lossTime { self.detectLoss(at: now) }
        } else if let probe = self.probeDeadline, now >= probe {
            self.probeCount += 1
            // On a byte stream, a probe timeout sends a PING and nothing else.
            if !self.usesDatagrams { self.queues.addPing() } else { self.sendProbes() }
            // The next probe timeout counts from here, whether or not this probe could be sent.
            self.elicitedAt = now
        }
        if now >= self.elicitedAt + self.keepAliveInterval {
            self.queues.addPing()
            self.elicitedAt = now
        }
    }
}
