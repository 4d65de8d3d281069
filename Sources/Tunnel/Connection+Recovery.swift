import NIOCore

/// RFC 9002 for carriers of datagrams. On a byte stream nothing is sent again by time: see `receiveAck`.
extension Connection {
    /// RFC 9002 §6.1.2.
    private var lossDelay: TimeAmount {
        let slower = max(self.roundTripTime.latest ?? self.roundTripTime.smoothed, self.roundTripTime.smoothed)
        return max(.nanoseconds(slower.nanoseconds / 8 * 9), Constants.granularity)
    }

    /// How long a message that was declared lost may still turn up.
    private var lateness: TimeAmount { .nanoseconds(3 * self.roundTripTime.probeTimeout.nanoseconds) }

    /// What an ACK frame says of the path in use. Called after its round trip was measured.
    mutating func recover(
        acknowledged: [SentMessage],
        newest: SentMessage,
        isSpurious: Bool,
        at now: Instant
    ) {
        guard let carrier = self.carrier, let inFlightBefore = self.recovery?.inFlight else { return }
        if self.recovery?.firstSampleAt == nil, self.roundTripTime.latest != nil { self.recovery?.firstSampleAt = now }
        let bytes = self.recovery?.acknowledged(acknowledged, on: carrier, at: now) ?? 0
        let largest = max(newest.number, self.recovery?.largestAcknowledged ?? 0)
        self.recovery?.largestAcknowledged = largest
        if isSpurious { self.recovery?.congestion.didFindSpuriousLoss(at: now) }
        let lostBytes = self.detectLoss(at: now)
        guard let sample = self.recovery?.sampler.sample(at: now), let inFlight = self.recovery?.inFlight else {
            return
        }
        self.recovery?.congestion.didAcknowledge(
            AckNews(
                now: now,
                bytes: bytes,
                largestSentAt: newest.time,
                latest: self.roundTripTime.latest ?? self.roundTripTime.smoothed,
                smoothed: self.roundTripTime.smoothed,
                minimum: self.roundTripTime.minimum,
                inFlightBefore: inFlightBefore,
                inFlight: inFlight,
                lostBytes: lostBytes,
                rate: sample
            )
        )
        self.updatePacer(at: now)
    }

    private mutating func updatePacer(at now: Instant) {
        guard let window = self.recovery?.congestion.window, let size = self.recovery?.mtu.current else { return }
        let smoothed = max(1e-6, Double(self.roundTripTime.smoothed.nanoseconds) / 1e9)
        let rate = self.recovery?.congestion.pacingRate ?? 1.25 * Double(window) / smoothed
        self.recovery?.pacer.update(rate: rate, messageSize: size, at: now)
    }

    /// RFC 9002, appendix A.10. Returns how many bytes were lost.
    @discardableResult
    mutating func detectLoss(at now: Instant) -> Int {
        guard let carrier = self.carrier, let largest = self.recovery?.largestAcknowledged else { return 0 }
        let delay = self.lossDelay
        var lost: [SentMessage] = []
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
        self.recovery?.lossTime = waiting.map { $0 + delay }
        guard !lost.isEmpty else { return 0 }
        let hasFallen = self.countLost(lost, at: now)
        let congested = lost.filter { !$0.isSizeProbe }
        if let newest = congested.last, let inFlight = self.recovery?.inFlight {
            let span = self.roundTripTime.probeTimeout.nanoseconds * Constants.persistentCongestionThreshold
            let since = self.recovery?.firstSampleAt
            let isPersistent = longest.nanoseconds > span && since.map { congested.first?.time ?? $0 >= $0 } ?? false
            // Messages that were too great for the path say nothing of its load.
            if !hasFallen {
                self.recovery?.congestion.didLose(
                    bytes: congested.reduce(0) { $0 + $1.size },
                    largestLostSentAt: newest.time,
                    isPersistent: isPersistent,
                    inFlight: inFlight,
                    at: now
                )
            }
        }
        for message in lost { self.lose(message) }
        return congested.reduce(0) { $0 + $1.size }
    }

    private mutating func countLost(_ lost: [SentMessage], at now: Instant) -> Bool {
        var hasFallen = false
        let lateness = self.lateness
        let patience = TimeAmount.nanoseconds(2 * self.roundTripTime.probeTimeout.nanoseconds)
        for message in lost {
            self.recovery?.inFlight -= message.size
            if message.isSizeProbe {
                self.recovery?.mtu.probeLost(message.size, isAmongOthers: lost.count > 1, at: now)
                continue
            }
            self.recovery?.lateNumbers.append(message.number, at: now, remembered: lateness)
            let fell = self.recovery?.mtu.lost(
                message.size,
                number: message.number,
                sentAt: message.time,
                patience: patience,
                at: now
            )
            hasFallen = hasFallen || fell ?? false
        }
        if hasFallen { self.recovery?.sizeChanged() }
        return hasFallen
    }

    /// A probe timeout: RFC 9002 §6.2.4. What is oldest goes out again, since the peer may wait for just that.
    mutating func sendProbes() {
        self.recovery?.probesDue = Constants.probesAfterTimeout
        for message in self.sent.oldest(Constants.probesAfterTimeout) {
            self.requeue(message, self.sent.more(of: message))
        }
        self.pingIsPending = true
    }

    /// What the driver was told by the system: a message of this size can't be sent on this path.
    mutating func messageTooLong(_ size: Int, at now: Instant) {
        guard self.usesDatagrams else { return }
        self.recovery?.mtu.tooLong(size, at: now)
        self.recovery?.sizeChanged()
    }

    /// Nothing has got through for so long that datagrams seem not to, though they did.
    func isDark(at now: Instant) -> Bool {
        guard self.usesDatagrams, let oldest = self.sent.oldestTime else { return false }
        if self.presence != .live, self.signWantedAt == nil { return true }
        return self.probeCount >= Constants.timeoutsBeforeDark && now - oldest >= Constants.darkNoSooner
    }
}
