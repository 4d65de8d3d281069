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
            // Sent at once, a PING confirms the session to the responder (PROTOCOL §7.2).
            if self.role == .initiator { self.queues.addPing() }
            let deadAfter = min(self.configuration.deadAfter, session.peerParameters.deadAfter)
            if self.liveness.sessionChanged(to: session.createdAt, deadAfter: deadAfter) { self.noteAlive(at: now) }
        }
        guard self.carrier != carrier else { return }
        self.path = Path(
            carrier,
            recovery: kind == .datagrams ? self.makeRecovery(session) : nil,
            roundTrip: roundTrip
        )
        self.statistics.carriers += 1
        self.loseAll(exceptOn: carrier)
        self.received.isPrompt = kind == .datagrams
        self.pathValidation.carrierChanged()
        self.received.ackSoon()
        self.queues.addPing()
        self.liveness.carrierChanged(at: now)
        self.noteAlive(at: now)
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
            self.liveness.carrierInUseClosed(at: now)
            self.loseAll(exceptOn: nil)
            if case .closing = self.state { self.wipe() }
        }
        if isLast { self.liveness.lastCarrierClosed(at: now) }
    }

    /// The byte stream that stood by beside the datagrams has ended, as happens when the peer's program ends. The peer now
    /// has `carrierGrace`, as after the loss of the last carrier, to acknowledge a PING before it counts as gone.
    mutating func streamEndedBesides(at now: Instant) {
        guard self.isActive, self.usesDatagrams, self.liveness.wantSign(at: now) else { return }
        self.queues.addPing()
        // While the peer is suspected, a new stream carries its header alone, so that its connection can still be handed over
        // (PROTOCOL, waiting).
        self.setPresence(.suspected)
    }

    // MARK: Liveness

    mutating func noteAlive(at now: Instant) {
        self.liveness.signOfLife(at: now)
        // An acknowledgement doesn't end the suspicion while an older message is still unacknowledged for too long.
        let isLate = self.carrier != nil && self.suspicionDeadline.map { now >= $0 } ?? false
        let isSuspected = isLate || self.liveness.wantsSign
        self.setPresence(isSuspected ? .suspected : .live)
    }

    private mutating func setPresence(_ presence: Presence) {
        guard self.isActive, self.liveness.become(presence) else { return }
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
            deadline = sooner(self.received.deadline, self.keepAliveDeadline)
            deadline = sooner(deadline, self.recovery?.lossTime ?? self.probeDeadline)
            deadline = sooner(deadline, self.recovery?.pacedUntil)
            deadline = sooner(deadline, self.heldDeadline)
            if self.presence == .live { deadline = sooner(deadline, self.suspicionDeadline) }
        }
        if self.presence != .gone { deadline = sooner(deadline, self.goneDeadline) }
        return sooner(deadline, self.liveness.lingerDeadline(self.configuration.linger))
    }

    private var keepAliveDeadline: Instant {
        let isOften = self.usesDatagrams && self.role == .initiator && self.openStreamCount > 0
        return self.liveness.keepAliveDeadline(isOften: isOften)
    }

    private var suspicionDeadline: Instant? { self.liveness.suspicionDeadline(oldest: self.sent.oldestTime) }

    private var goneDeadline: Instant { self.liveness.goneDeadline(self.role) }

    private var probeDeadline: Instant? { self.sent.isEmpty ? nil : self.liveness.probeDeadline(self.path) }

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
        if let linger = self.liveness.lingerDeadline(self.configuration.linger), now >= linger {
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
            self.liveness.probed(at: now)
            // On a byte stream, a probe timeout sends a PING and nothing else.
            if !self.usesDatagrams { self.queues.addPing() } else { self.sendProbes() }
        }
        if now >= self.keepAliveDeadline {
            self.queues.addPing()
            self.liveness.elicited(at: now)
        }
    }
}
