import NIOCore

/// What the sender records with each message: how much had been delivered when it was sent.
struct DeliveryStamp {
    var delivered: UInt64 = 0
    var deliveredAt = Instant(nanoseconds: 0)
    /// When the first message of this sample's interval was sent.
    var firstSentAt = Instant(nanoseconds: 0)
    /// Bytes in flight when the message was sent, itself included.
    var inFlight: UInt32 = 0
    var isAppLimited = false
}

/// How fast the path delivered, over about one round trip.
struct RateSample {
    /// Bytes a second; nil: the interval was too short to tell.
    var bytesPerSecond: Double?
    /// The bytes that had been delivered in all when the newest message of the sample was sent.
    var priorDelivered: UInt64 = 0
    /// The bytes that have been delivered in all by now.
    var delivered: UInt64 = 0
    var inFlightAtSend = 0
    /// The sender had nothing more to send, so the path may be faster.
    var isAppLimited = false
}

/// Measures the rate of delivery: draft-cheng-iccrg-delivery-rate-estimation.
struct DeliveryRateSampler {
    private(set) var delivered: UInt64 = 0
    private var deliveredAt = Instant(nanoseconds: 0)
    private var firstSentAt = Instant(nanoseconds: 0)
    /// Until this many bytes have been delivered, samples come from a sender that had nothing more to send.
    private var appLimitedUntil: UInt64?
    private var newest: (sentAt: Instant, stamp: DeliveryStamp)?

    mutating func stamp(sending bytes: Int, inFlightBefore: Int, at now: Instant) -> DeliveryStamp {
        if inFlightBefore == 0 {
            self.firstSentAt = now
            self.deliveredAt = now
        }
        return DeliveryStamp(
            delivered: self.delivered,
            deliveredAt: self.deliveredAt,
            firstSentAt: self.firstSentAt,
            inFlight: UInt32(clamping: inFlightBefore + bytes),
            isAppLimited: self.appLimitedUntil != nil
        )
    }

    mutating func acknowledged(bytes: Int, sentAt: Instant, stamp: DeliveryStamp, at now: Instant) {
        self.delivered += UInt64(max(0, bytes))
        self.deliveredAt = now
        if self.newest.map({ (stamp.delivered, sentAt) >= ($0.stamp.delivered, $0.sentAt) }) ?? true {
            self.newest = (sentAt, stamp)
            self.firstSentAt = sentAt
        }
    }

    /// Called after all messages of an ACK frame were counted.
    mutating func sample(at now: Instant) -> RateSample {
        if let until = self.appLimitedUntil, self.delivered > until { self.appLimitedUntil = nil }
        guard let (sentAt, stamp) = self.newest else { return RateSample(delivered: self.delivered) }
        self.newest = nil
        let sending = sentAt - stamp.firstSentAt
        let acknowledging = self.deliveredAt - stamp.deliveredAt
        let interval = max(sending.nanoseconds, acknowledging.nanoseconds)
        var sample = RateSample(
            priorDelivered: stamp.delivered,
            delivered: self.delivered,
            inFlightAtSend: Int(stamp.inFlight),
            isAppLimited: stamp.isAppLimited
        )
        // Shorter intervals show the clock's resolution, not the path.
        if interval >= 10_000 {
            sample.bytesPerSecond = Double(self.delivered - stamp.delivered) * 1e9 / Double(interval)
        }
        return sample
    }

    /// Called when the window has room and nothing waits to be sent.
    mutating func noteAppLimited(inFlight: Int) { self.appLimitedUntil = self.delivered + UInt64(max(0, inFlight)) }
}
