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
            isRelayed: kind == .relay,
            recovery: kind == .datagrams ? self.makeRecovery(session) : nil,
            roundTrip: roundTrip
        )
        self.statistics.carriers += 1
        self.loseAll(exceptOn: carrier)
        self.pathValidation.carrierChanged()
        self.received.carrierChanged(to: kind)
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
}
