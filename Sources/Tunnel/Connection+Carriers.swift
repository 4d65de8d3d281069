import NIOCore

extension Connection {
    /// From now on messages go this way, sealed with this session. What nobody acknowledged elsewhere is sent again.
    ///
    /// - Parameter roundTrip: what the handshake there took; until there is a better sample it is the only one.
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
            // A message at once confirms the session to the responder.
            if self.role == .initiator { self.pingIsPending = true }
            // A peer that goes back and forth between sessions shows nothing new by that.
            if self.newestSessionAt.map({ session.createdAt > $0 }) ?? true {
                self.newestSessionAt = session.createdAt
                self.noteAlive(at: now)
            }
        }
        guard self.carrier != carrier else { return }
        self.carrier = carrier
        self.carrierLostAt = nil
        self.unusedSince = nil
        self.statistics.carriers += 1
        self.roundTripTime = RoundTripTime()
        if kind == .datagrams, let roundTrip { self.roundTripTime.expect(roundTrip) }
        self.loseAll(exceptOn: carrier)
        self.usesDatagrams = kind == .datagrams
        self.recovery = self.usesDatagrams ? self.makeRecovery(session) : nil
        self.received.isPrompt = kind == .datagrams
        self.pathResponses.removeAll()
        self.signWantedAt = nil
        self.received.ackSoon()
        self.pingIsPending = true
        self.probeCount = 0
        self.noteAlive(at: now)
        // What waits for an answer is judged from now on.
        self.elicitedAt = now
    }

    /// Whether this number is greater than all that came before it, while the connection lasts. Notes it.
    mutating func isNewest(_ number: UInt64) -> Bool {
        guard self.isActive, self.highestReceived.map({ number > $0 }) ?? true else { return false }
        self.highestReceived = number
        return true
    }

    private func makeRecovery(_ session: Session) -> DatagramRecovery {
        let greatest = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        return DatagramRecovery(
            algorithm: self.configuration.congestionAlgorithm,
            greatestMessage: min(greatest, Constants.greatestDatagramSize),
            random: self.random.next()
        )
    }

    /// The end of a carrier: nothing more can be learned of what was sent on it.
    mutating func carrierClosed(_ carrier: CarrierID, isLast: Bool, at now: Instant) {
        if self.carrier == carrier {
            self.carrier = nil
            self.unusedSince = now
            self.loseAll(exceptOn: nil)
            self.usesDatagrams = false
            self.recovery = nil
            if case .closing = self.state { self.wipe() }
        }
        if isLast, self.carrierLostAt == nil { self.carrierLostAt = now }
    }

    /// A byte stream that stood beside the datagrams has ended, as it does with the peer's program: a sign of life is
    /// waited for as long as for another carrier.
    mutating func streamEndedBesides(at now: Instant) {
        guard self.isActive, self.usesDatagrams, self.signWantedAt == nil else { return }
        self.signWantedAt = now
        self.pingIsPending = true
        // Until it comes nothing is given to the peer that couldn't be given to somebody else.
        self.setPresence(.suspected)
    }

    // MARK: Liveness

    mutating func noteAlive(at now: Instant) {
        self.aliveAt = now
        // One sign of life doesn't answer what has been unanswered for too long.
        let isLate = self.carrier != nil && self.suspicionDeadline.map { now >= $0 } ?? false
        let isSuspected = isLate || self.signWantedAt != nil
        self.setPresence(isSuspected ? .suspected : .live)
    }

    private mutating func setPresence(_ presence: Presence) {
        guard self.presence != presence, self.isActive else { return }
        self.presence = presence
        // What waits now would come when nobody waits for it any more.
        if presence == .gone { self.statistics.datagramsDropped += self.datagrams.dropOutgoing() }
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

    /// While somebody waits for an answer, an initiator on datagrams asks more often: only it can choose another way, and
    /// only by its own messages does it learn that this one is blocked.
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
        // Only the responder takes the loss of the last carrier for a sign: the initiator is the one who dials.
        guard self.role == .responder, let carrierLostAt = self.carrierLostAt else { return unanswered }
        return min(unanswered, carrierLostAt + Constants.carrierGrace)
    }

    /// RFC 9002 §6.2. On datagrams the peer is asked several times before it is held to be gone, however slow it was.
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
        // Whether it can be sent or not: what was held back is written next.
        if let pacedUntil = self.recovery?.pacedUntil, now >= pacedUntil { self.recovery?.pacedUntil = nil }
        if let lossTime = self.recovery?.lossTime {
            if now >= lossTime { self.detectLoss(at: now) }
        } else if let probe = self.probeDeadline, now >= probe {
            self.probeCount += 1
            // On a byte stream a probe is a PING and nothing else.
            if !self.usesDatagrams { self.pingIsPending = true } else { self.sendProbes() }
            // Sent or not, the next one is counted from here.
            self.elicitedAt = now
        }
        if now >= self.elicitedAt + self.keepAliveInterval {
            self.pingIsPending = true
            self.elicitedAt = now
        }
    }
}
