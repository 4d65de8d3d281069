import NIOCore

/// The carrier in use, with what is measured and controlled on it.
struct Path {
    /// nil: no carrier is in use.
    private(set) var carrier: CarrierID?
    /// Stays when the carrier closes, as the latest that is known.
    private(set) var roundTripTime = RoundTripTime()
    /// Loss recovery and congestion control of datagrams; nil on a byte stream.
    private(set) var recovery: DatagramRecovery?

    /// No carrier yet.
    init() {}

    init(_ carrier: CarrierID, recovery: DatagramRecovery?, roundTrip: TimeAmount?) {
        self.carrier = carrier
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
