import NIOCore

/// The carrier in use, with what is measured and controlled on it.
struct Path {
    /// nil: no carrier is in use.
    private(set) var carrier: CarrierID?
    /// Stays when the carrier closes, as the latest that is known.
    private(set) var roundTripTime = RoundTripTime()
    /// Loss recovery and congestion control of datagrams; nil on a byte stream.
    private(set) var recovery: DatagramRecovery?
    /// Stays when the carrier closes, too.
    private(set) var isRelayed = false

    /// No carrier yet.
    init() {}

    init(_ carrier: CarrierID, isRelayed: Bool = false, recovery: DatagramRecovery?, roundTrip: TimeAmount?) {
        self.carrier = carrier
        self.isRelayed = isRelayed
        self.recovery = recovery
        if recovery != nil, let roundTrip { self.roundTripTime.expect(roundTrip) }
    }

    var usesDatagrams: Bool { self.recovery != nil }

    mutating func sample(_ roundTrip: TimeAmount, ackDelay: TimeAmount) {
        self.roundTripTime.sample(roundTrip, ackDelay: ackDelay)
    }

    mutating func close() {
        self.carrier = nil
        self.recovery = nil
    }
}

extension Connection {
    var carrier: CarrierID? { self.path.carrier }
    var roundTripTime: RoundTripTime { self.path.roundTripTime }
    var recovery: DatagramRecovery? { self.path.recovery }
    var usesDatagrams: Bool { self.path.usesDatagrams }
}

/// The estimator of RFC 9002 §5, for one carrier.
struct RoundTripTime {
    private(set) var latest: TimeAmount?
    private(set) var minimum = Constants.initialRoundTripTime
    private(set) var smoothed = Constants.initialRoundTripTime
    private(set) var variation = TimeAmount.nanoseconds(Constants.initialRoundTripTime.nanoseconds / 2)

    mutating func sample(_ latest: TimeAmount, ackDelay: TimeAmount) {
        let latest = TimeAmount.nanoseconds(max(1, latest.nanoseconds))
        guard self.latest != nil else {
            self.latest = latest
            self.minimum = latest
            self.smoothed = latest
            self.variation = .nanoseconds(latest.nanoseconds / 2)
            return
        }
        self.latest = latest
        self.minimum = min(self.minimum, latest)
        let delay = min(ackDelay, Constants.maxAckDelay)
        let adjusted = latest >= self.minimum + delay ? latest - delay : latest
        let distance = abs(self.smoothed.nanoseconds - adjusted.nanoseconds)
        self.variation = .nanoseconds((3 * self.variation.nanoseconds + distance) / 4)
        self.smoothed = .nanoseconds((7 * self.smoothed.nanoseconds + adjusted.nanoseconds) / 8)
    }

    /// RFC 9002 §6.2.2: a handshake's round trip replaces the initial value. The first sample replaces both.
    mutating func expect(_ roundTrip: TimeAmount) {
        guard self.latest == nil else { return }
        self.smoothed = .nanoseconds(max(1, roundTrip.nanoseconds))
        self.variation = .nanoseconds(self.smoothed.nanoseconds / 2)
    }

    /// RFC 9002 §6.2.1, before any backoff.
    var probeTimeout: TimeAmount {
        let spread = max(4 * self.variation.nanoseconds, Constants.granularity.nanoseconds)
        return .nanoseconds(self.smoothed.nanoseconds + spread + Constants.maxAckDelay.nanoseconds)
    }
}
