import NIOCore

/// What a connection keeps for a carrier of datagrams: RFC 9002's state for one path. On a byte stream there is none.
struct DatagramRecovery {
    var congestion: Congestion
    var sampler = DeliveryRateSampler()
    var pacer: Pacer
    var mtu: PathMTU
    /// Bytes of messages whose fate is unknown.
    var inFlight = 0
    var largestAcknowledged: UInt64?
    /// When the next message is lost by time (RFC 9002 §6.1.2), if nothing is heard.
    var lossTime: Instant?
    /// Messages that may go out past the congestion window: RFC 9002 §6.2.4.
    var probesDue = 0
    /// When the pacer lets the next message go, if it was what held it back.
    var pacedUntil: Instant?
    var lateNumbers = LateNumbers()
    /// When the first round trip was measured: losses before it show no persistent congestion (RFC 9002 §7.6.2).
    var firstSampleAt: Instant?

    init(algorithm: CongestionAlgorithm, greatestMessage: Int, random seed: UInt64) {
        self.mtu = PathMTU(greatest: greatestMessage)
        self.congestion = Congestion(algorithm, messageSize: self.mtu.current, random: seed)
        self.pacer = Pacer(messageSize: self.mtu.current)
    }

    func hasRoom(for size: Int) -> Bool { self.inFlight + size <= self.congestion.window }

    // What follows is several steps in one, since each step through an optional costs.

    /// What to begin the next message with: its size; that of a probe, where one is to go before all else (where much is sent
    /// nothing waits for long, and there is never nothing to send); whether probes are due (RFC 9002 §6.2.4).
    mutating func beginMessage(at now: Instant) -> (size: Int, sizeProbe: Int?, probesAreDue: Bool) {
        self.pacedUntil = nil
        let size = self.mtu.current
        let isBusy = self.congestion.window >= Constants.windowForSizeProbes * size
        return (size, isBusy ? self.mtu.probeSize(at: now) : nil, self.probesDue > 0)
    }

    /// Whether window and pacer let a message of this size go. Notes when the pacer will.
    mutating func admits(_ size: Int, at now: Instant) -> Bool {
        guard self.hasRoom(for: size) else { return false }
        guard let at = self.pacer.nextSendTime(for: size, at: now) else { return true }
        self.pacedUntil = at
        return false
    }

    /// A message that counts as in flight was sent.
    mutating func sent(_ size: Int, at now: Instant) -> DeliveryStamp {
        let stamp = self.sampler.stamp(sending: size, inFlightBefore: self.inFlight, at: now)
        self.inFlight += size
        self.pacer.sent(size, at: now)
        if self.probesDue > 0 { self.probesDue -= 1 }
        return stamp
    }

    /// Those of the messages that were sent on this carrier have arrived. Returns their bytes.
    mutating func acknowledged(_ messages: [SentMessage], on carrier: CarrierID, at now: Instant) -> Int {
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

    /// Messages have another size from now on.
    mutating func sizeChanged() { self.congestion.messageSizeChanged(to: self.mtu.current) }
}

/// Numbers that were declared lost a while ago. If all of them turn out to have arrived, the network had only been late, and
/// the congestion controller takes its answer back.
struct LateNumbers {
    /// In rising order: a message is never declared lost before an older one.
    private var numbers = CircularBuffer<(number: UInt64, at: Instant)>()
    /// Some of this episode were truly lost, as far as anyone can tell.
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

    /// Takes out those of the range. True: it took the last one of an episode of which every message has arrived.
    mutating func acknowledge(_ range: ClosedRange<UInt64>) -> Bool {
        guard let first = self.numbers.first, let last = self.numbers.last, range.upperBound >= first.number,
            range.lowerBound <= last.number
        else { return false }
        // Nearly always none of them is in it: that costs one search.
        let at = self.position(range.lowerBound)
        guard at < self.numbers.count,
            range.contains(self.numbers[self.numbers.index(self.numbers.startIndex, offsetBy: at)].number)
        else { return false }
        self.numbers.removeAll { range.contains($0.number) }
        return self.numbers.isEmpty && !self.isGenuine
    }

    /// The place of the first that is no less.
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
