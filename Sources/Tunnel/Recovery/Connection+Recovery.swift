import NIOCore

/// RFC 9002 on datagrams. On a byte stream nothing is declared lost by time: see `receiveAck`.
extension Connection {
    /// The time threshold of RFC 9002 §6.1.2.
    private var lossDelay: TimeAmount {
        let slower = max(self.roundTripTime.latest ?? self.roundTripTime.smoothed, self.roundTripTime.smoothed)
        return max(.nanoseconds(slower.nanoseconds / 8 * 9), Constants.granularity)
    }

    /// Updates loss detection and congestion control from an ACK frame, after its round trip was measured.
    mutating func recover(
        acknowledged: [SentMessage],
        newest: SentMessage,
        isSpurious: Bool,
        at now: Instant
    ) {
        guard let carrier, let recovery else { return }
        let inFlightBefore = recovery.inFlight
        if recovery.firstSampleAt == nil, self.roundTripTime.latest != nil { recovery.firstSampleAt = now }
        let bytes = recovery.acknowledged(acknowledged, on: carrier, at: now)
        recovery.largestAcknowledged = max(newest.number, recovery.largestAcknowledged ?? 0)
        if isSpurious { recovery.congestion.didFindSpuriousLoss(at: now) }
        let lostBytes = self.detectLoss(at: now)
        let rate = recovery.sampler.sample(at: now)
        recovery.congestion.didAcknowledge(
            AckNews(
                now: now,
                bytes: bytes,
                largestSentAt: newest.time,
                latest: self.roundTripTime.latest ?? self.roundTripTime.smoothed,
                smoothed: self.roundTripTime.smoothed,
                minimum: self.roundTripTime.minimum,
                inFlightBefore: inFlightBefore,
                inFlight: recovery.inFlight,
                lostBytes: lostBytes,
                rate: rate
            )
        )
        recovery.updatePacer(smoothed: self.roundTripTime.smoothed, at: now)
    }

    /// RFC 9002, appendix A.10. Returns how many bytes were lost.
    @discardableResult
    mutating func detectLoss(at now: Instant) -> Int {
        guard let carrier, let recovery, let largest = recovery.largestAcknowledged else { return 0 }
        let delay = self.lossDelay
        var lost: [SentMessage] = []
        // The longest time over which all was lost, for persistent congestion (RFC 9002 §7.6.2).
        var run: (first: Instant, last: Instant)?
        var longest = TimeAmount.zero
        let waiting = self.sent.settleLate(on: carrier, before: largest, sentBy: now + .nanoseconds(-delay.nanoseconds))
        {
            message in
            lost.append(message)
            guard !message.isSizeProbe else { return }
            let first = run?.first ?? message.time
            run = (first, message.time)
            longest = max(longest, message.time - first)
        } afterAcknowledged: {
            run = nil
        }
        recovery.lossTime = waiting.map { $0 + delay }
        guard !lost.isEmpty else { return 0 }
        let hasFallen = recovery.lost(lost, probeTimeout: self.roundTripTime.probeTimeout, at: now)
        let congested = lost.filter { !$0.isSizeProbe }
        if let newest = congested.last {
            let span = self.roundTripTime.probeTimeout.nanoseconds * Constants.persistentCongestionThreshold
            let since = recovery.firstSampleAt
            let isPersistent = longest.nanoseconds > span && since.map { congested.first?.time ?? $0 >= $0 } ?? false
            // Messages that were too large for the path are no sign of congestion.
            if !hasFallen {
                recovery.congestion.didLose(
                    bytes: congested.reduce(0) { $0 + $1.size },
                    largestLostSentAt: newest.time,
                    isPersistent: isPersistent,
                    inFlight: recovery.inFlight,
                    at: now
                )
            }
        }
        for message in lost { self.lose(message) }
        return congested.reduce(0) { $0 + $1.size }
    }

    /// RFC 9002 §6.2.4: after a probe timeout the frames of the oldest messages are sent again, since the peer may wait for
    /// just those.
    mutating func sendProbes() {
        self.recovery?.probesDue = Constants.probesAfterTimeout
        for message in self.sent.oldest(Constants.probesAfterTimeout) {
            self.requeue(message, self.sent.more(of: message))
        }
        self.queues.addPing()
    }

    /// The kernel refused to send a message of this size on this path.
    mutating func messageTooLong(_ size: Int, at now: Instant) {
        self.recovery?.mtu.tooLong(size, at: now)
        self.recovery?.sizeChanged()
    }

    /// Whether datagrams seem not to get through any more: the peer is suspected or gone, or three probe timeouts and at
    /// least 0.5 s have passed without an acknowledgement.
    func isDark(at now: Instant) -> Bool {
        guard self.usesDatagrams, let oldest = self.sent.oldestTime else { return false }
        if self.presence != .live, !self.liveness.wantsSign { return true }
        return self.liveness.probeCount >= Constants.timeoutsBeforeDark && now - oldest >= Constants.darkNoSooner
    }
}
