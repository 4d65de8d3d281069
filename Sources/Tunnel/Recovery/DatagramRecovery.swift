import NIOCore

/// RFC 9002's state for the one datagram path in use. A connection on a byte stream has none.
///
/// A class, so that it is changed in place: a connection has it as an optional. Exclusivity checks are off, as in
/// `StreamState`: it never leaves its connection.
final class DatagramRecovery {
    @exclusivity(unchecked) private(set) var congestion: Congestion
    @exclusivity(unchecked) private var sampler = DeliveryRateSampler()
    @exclusivity(unchecked) private var pacer: Pacer
    @exclusivity(unchecked) private(set) var mtu: PathMTU
    /// Bytes of messages neither acknowledged nor declared lost.
    @exclusivity(unchecked) private(set) var inFlight = 0
    @exclusivity(unchecked) private(set) var largestAcknowledged: UInt64?
    /// When the next message counts as lost by the time threshold (RFC 9002 §6.1.2).
    @exclusivity(unchecked) private(set) var lossTime: Instant?
    /// Probes that may still go out past the congestion window: RFC 9002 §6.2.4.
    @exclusivity(unchecked) private(set) var probesDue = 0
    /// When the pacer lets the next message go; nil unless it held one back.
    @exclusivity(unchecked) private(set) var pacedUntil: Instant?
    @exclusivity(unchecked) private var lateNumbers = LateNumbers()
    /// When the first round trip was measured: losses before it show no persistent congestion (RFC 9002 §7.6.2).
    @exclusivity(unchecked) private var firstSampleAt: Instant?

    init(algorithm: CongestionAlgorithm, greatestMessage: Int, random seed: UInt64) {
        let mtu = PathMTU(greatest: greatestMessage)
        self.mtu = mtu
        self.congestion = Congestion(algorithm, messageSize: mtu.current, random: seed)
        self.pacer = Pacer(messageSize: mtu.current)
    }

    func hasRoom(for size: Int) -> Bool { self.inFlight + size <= self.congestion.window }

    /// Returns the next message's size, the size of an MTU probe if one should go first (under constant load there is no idle
    /// moment for it), and whether probes are due (RFC 9002 §6.2.4).
    func beginMessage(at now: Instant) -> (size: Int, sizeProbe: Int?, probesAreDue: Bool) {
        self.holdBack(until: nil)
        let size = self.mtu.current
        let isBusy = self.congestion.window >= Constants.windowForSizeProbes * size
        return (size, isBusy ? self.mtu.probeSize(at: now) : nil, self.probesDue > 0)
    }

    /// Whether congestion window and pacer let a message of this size go. If only the pacer doesn't, `pacedUntil` says when
    /// it will.
    func admits(_ size: Int, at now: Instant) -> Bool {
        guard self.hasRoom(for: size) else { return false }
        guard let at = self.pacer.nextSendTime(for: size, at: now) else { return true }
        self.holdBack(until: at)
        return false
    }

    /// Counts a message that was sent as in flight.
    func sent(_ size: Int, at now: Instant) -> DeliveryStamp {
        let stamp = self.sampler.stamp(sending: size, inFlightBefore: self.inFlight, at: now)
        self.inFlight += size
        self.pacer.sent(size, at: now)
        if self.probesDue > 0 { self.probesDue -= 1 }
        return stamp
    }

    /// Called where there is nothing to send: what was delivered until now says nothing about the path's limit.
    func hasNothingToSend() {
        if self.hasRoom(for: self.mtu.current) { self.sampler.noteAppLimited(inFlight: self.inFlight) }
    }

    /// Nothing goes until then; nil: the pacer's wait is over.
    func holdBack(until at: Instant?) { self.pacedUntil = at }

    // MARK: Probes

    func startProbing(_ count: Int = Constants.probesAfterTimeout) { self.probesDue = count }

    func stopProbing() { self.probesDue = 0 }

    func sizeProbe(at now: Instant) -> Int? { self.mtu.probeSize(at: now) }

    func sizeProbeSent(_ size: Int) { self.mtu.probeSent(size) }

    /// The kernel refused to send a message of this size on this path.
    func messageTooLong(_ size: Int, at now: Instant) {
        self.mtu.tooLong(size, at: now)
        self.sizeChanged()
    }

    // MARK: Acknowledgement

    /// Whether this range shows that what was declared lost was only late.
    func areLate(_ range: ClosedRange<UInt64>) -> Bool { self.lateNumbers.acknowledge(range) }

    /// Handles the messages that an ACK frame settles, after their round trip was measured: some of them on this carrier, of
    /// which this is the newest. Losses that they show are handed to the closure.
    func acknowledged(
        _ messages: [SentMessage],
        newest: SentMessage,
        isSpurious: Bool,
        roundTripTime: RoundTripTime,
        at now: Instant,
        detectLoss: () -> Int
    ) {
        let inFlightBefore = self.inFlight
        if self.firstSampleAt == nil, roundTripTime.latest != nil { self.firstSampleAt = now }
        let bytes = self.acknowledged(messages, on: newest.carrier, at: now)
        self.largestAcknowledged = max(newest.number, self.largestAcknowledged ?? 0)
        if isSpurious { self.congestion.didFindSpuriousLoss(at: now) }
        let lostBytes = detectLoss()
        let rate = self.sampler.sample(at: now)
        self.congestion.didAcknowledge(
            AckNews(
                now: now,
                bytes: bytes,
                largestSentAt: newest.time,
                latest: roundTripTime.latest ?? roundTripTime.smoothed,
                smoothed: roundTripTime.smoothed,
                minimum: roundTripTime.minimum,
                inFlightBefore: inFlightBefore,
                inFlight: self.inFlight,
                lostBytes: lostBytes,
                rate: rate
            )
        )
        self.updatePacer(smoothed: roundTripTime.smoothed, at: now)
    }

    /// Counts those of the messages that were sent on this carrier as delivered. Returns their bytes.
    private func acknowledged(_ messages: [SentMessage], on carrier: CarrierID, at now: Instant) -> Int {
        var bytes = 0
        let sizeBefore = self.mtu.current
        for message in messages where message.carrier == carrier {
            bytes += message.size
            self.sampler.acknowledged(bytes: message.size, sentAt: message.time, stamp: message.stamp, at: now)
            self.mtu.acknowledged(message.size, number: message.number, isProbe: message.isSizeProbe, at: now)
        }
        self.inFlight -= bytes
        if self.mtu.current != sizeBefore { self.sizeChanged() }
        return bytes
    }

    // MARK: Loss

    /// RFC 9002, appendix A.10: settles the messages on this carrier that are lost by now, and returns them, with how many of
    /// their bytes are a sign of congestion.
    func detectLoss(
        among sent: inout SentMessages,
        on carrier: CarrierID,
        roundTripTime: RoundTripTime,
        at now: Instant
    ) -> (lost: [SentMessage], bytes: Int) {
        guard let largest = self.largestAcknowledged else { return ([], 0) }
        // The time threshold of RFC 9002 §6.1.2.
        let slower = max(roundTripTime.latest ?? roundTripTime.smoothed, roundTripTime.smoothed)
        let delay = max(.nanoseconds(slower.nanoseconds / 8 * 9), Constants.granularity)
        var lost: [SentMessage] = []
        // The longest time over which all was lost, for persistent congestion (RFC 9002 §7.6.2).
        var runBegan: Instant?
        var longest = TimeAmount.zero
        let limit = now + .nanoseconds(-delay.nanoseconds)
        let waiting = sent.settleLate(on: carrier, before: largest, sentBy: limit) { message in
            lost.append(message)
            guard !message.isSizeProbe else { return }
            let began = runBegan ?? message.time
            runBegan = began
            longest = max(longest, message.time - began)
        } afterAcknowledged: {
            runBegan = nil
        }
        self.lossTime = waiting.map { $0 + delay }
        guard !lost.isEmpty else { return ([], 0) }
        let hasFallen = self.lost(lost, probeTimeout: roundTripTime.probeTimeout, at: now)
        let congested = lost.filter { !$0.isSizeProbe }
        let bytes = congested.reduce(0) { $0 + $1.size }
        // Messages that were too large for the path are no sign of congestion.
        if let first = congested.first, let newest = congested.last, !hasFallen {
            let span = roundTripTime.probeTimeout.nanoseconds * Constants.persistentCongestionThreshold
            let isMeasured = self.firstSampleAt.map { first.time >= $0 } ?? false
            self.congestion.didLose(
                bytes: bytes,
                largestLostSentAt: newest.time,
                isPersistent: longest.nanoseconds > span && isMeasured,
                inFlight: self.inFlight,
                at: now
            )
        }
        return (lost, bytes)
    }

    /// All messages are forgotten.
    func forgetInFlight() { self.inFlight = 0 }

    /// Counts messages that were declared lost. True: the path's MTU has fallen below the size of some.
    private func lost(_ messages: [SentMessage], probeTimeout: TimeAmount, at now: Instant) -> Bool {
        var hasFallen = false
        // How long a message is remembered, in case it was only late.
        let lateness = TimeAmount.nanoseconds(3 * probeTimeout.nanoseconds)
        let patience = TimeAmount.nanoseconds(2 * probeTimeout.nanoseconds)
        for message in messages {
            self.inFlight -= message.size
            if message.isSizeProbe {
                self.mtu.probeLost(message.size, isAmongOthers: messages.count > 1, at: now)
                continue
            }
            self.lateNumbers.append(message.number, at: now, remembered: lateness)
            let fell = self.mtu.lost(
                message.size,
                number: message.number,
                sentAt: message.time,
                patience: patience,
                at: now
            )
            hasFallen = hasFallen || fell
        }
        if hasFallen { self.sizeChanged() }
        return hasFallen
    }

    private func updatePacer(smoothed: TimeAmount, at now: Instant) {
        let seconds = max(1e-6, Double(smoothed.nanoseconds) / 1e9)
        let rate = self.congestion.pacingRate ?? 1.25 * Double(self.congestion.window) / seconds
        self.pacer.update(rate: rate, messageSize: self.mtu.current, at: now)
    }

    /// Tells the congestion controller that the path's MTU has changed.
    private func sizeChanged() { self.congestion.messageSizeChanged(to: self.mtu.current) }
}

/// The numbers that were declared lost a while ago. If all of them arrive after all, the network was only late, and the
/// congestion controller undoes its reaction.
struct LateNumbers {
    /// In rising order: a message is never declared lost before an older one.
    private var numbers = CircularBuffer<(number: UInt64, at: Instant)>()
    /// Some messages of this episode count as truly lost, since they were not acknowledged while they were remembered.
    private var isGenuine = false

    mutating func append(_ number: UInt64, at now: Instant, remembered lifetime: TimeAmount) {
        self.expire(at: now, after: lifetime)
        if self.numbers.isEmpty { self.isGenuine = false }
        if self.numbers.count >= Constants.lostNumbersKept {
            self.numbers.removeFirst()
            self.isGenuine = true
        }
        self.numbers.append((number, now))
    }

    private mutating func expire(at now: Instant, after lifetime: TimeAmount) {
        while let first = self.numbers.first, now - first.at > lifetime {
            self.numbers.removeFirst()
            self.isGenuine = true
        }
    }

    /// Removes the numbers in the range. True: they were the last of an episode in which every message has arrived.
    mutating func acknowledge(_ range: ClosedRange<UInt64>) -> Bool {
        guard let first = self.numbers.first, let last = self.numbers.last, range.upperBound >= first.number,
            range.lowerBound <= last.number
        else { return false }
        // Nearly always the range holds none of them, which one search shows.
        let at = self.position(range.lowerBound)
        guard at < self.numbers.count,
            range.contains(self.numbers[self.numbers.index(self.numbers.startIndex, offsetBy: at)].number)
        else { return false }
        self.numbers.removeAll { range.contains($0.number) }
        return self.numbers.isEmpty && !self.isGenuine
    }

    /// The index of the first number that is not below this one.
    private func position(_ number: UInt64) -> Int {
        var low = 0
        var high = self.numbers.count
        while low < high {
            let middle = (low + high) / 2
            let index = self.numbers.index(self.numbers.startIndex, offsetBy: middle)
            if self.numbers[index].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
