import NIOCore

/// RFC 9002 on datagrams. On a byte stream nothing is declared lost by time: see `receiveAck`.
extension Connection {
    /// Updates loss detection and congestion control from an ACK frame, after its round trip was measured.
    mutating func recover(acknowledged: [SentMessage], newest: SentMessage, isSpurious: Bool, at now: Instant) {
        self.recovery?.acknowledged(
            acknowledged,
            newest: newest,
            isSpurious: isSpurious,
            roundTripTime: self.roundTripTime,
            at: now
        ) {
            self.detectLoss(at: now)
        }
    }

    /// Declares lost what is, and returns how many bytes of it are a sign of congestion.
    @discardableResult
    mutating func detectLoss(at now: Instant) -> Int {
        guard let carrier, let recovery else { return 0 }
        let (lost, bytes) = recovery.detectLoss(
            among: &self.sent,
            on: carrier,
            roundTripTime: self.roundTripTime,
            at: now
        )
        for message in lost { self.lose(message) }
        return bytes
    }

    /// RFC 9002 §6.2.4: after a probe timeout the frames of the oldest messages are sent again, since the peer may wait for
    /// just those.
    mutating func sendProbes() {
        self.recovery?.startProbing()
        for message in self.sent.oldest(Constants.probesAfterTimeout) {
            self.requeue(message, self.sent.more(of: message))
        }
        self.queues.addPing()
    }

    /// The kernel refused to send a message of this size on this path.
    mutating func messageTooLong(_ size: Int, at now: Instant) {
        self.recovery?.messageTooLong(size, at: now)
    }

    /// Whether datagrams seem not to get through any more: the peer is suspected or gone, or three probe timeouts and at
    /// least 0.5 s have passed without an acknowledgement.
    func isDark(at now: Instant) -> Bool {
        guard self.usesDatagrams, let oldest = self.sent.oldestTime else { return false }
        if self.presence != .live, !self.liveness.wantsSign { return true }
        return self.liveness.probeCount >= Constants.timeoutsBeforeDark && now - oldest >= Constants.darkNoSooner
    }
}
