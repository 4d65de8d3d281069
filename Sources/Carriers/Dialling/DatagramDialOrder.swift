import NIOCore

/// Which of a sidecar's UDP addresses is dialled next. Each time around, a name's next IP address is used.
struct DatagramDialOrder {
    let addresses: [TunnelClient.Address]
    /// Counts the addresses tried.
    private var turn = 0
    /// How many IP addresses the current name has.
    private var placeCount = 1

    /// The time to answer. Then the next address is tried; once all were tried, that is reported. †
    private static let answerTimeout = TimeAmount.seconds(5)
    /// The time to answer in the first round, if there is a next address. †
    private static let firstTimeout = TimeAmount.milliseconds(1_500)

    init(_ addresses: [TunnelClient.Address]) { self.addresses = addresses.filter(\.isDatagrams) }

    /// The current address; nil: there is none.
    var address: TunnelClient.Address? {
        self.addresses.isEmpty ? nil : self.addresses[self.turn % self.addresses.count]
    }

    /// Which of the current address's places, of which there is at least one, is dialled.
    mutating func place<Place>(of places: [Place]) -> Place {
        self.placeCount = places.count
        return places[self.turn / self.addresses.count % places.count]
    }

    mutating func next() { self.turn += 1 }

    private var roundCount: Int { self.addresses.count * self.placeCount }

    var hasOthers: Bool { self.roundCount > 1 }

    /// Whether all have been tried once the current one has.
    var isLast: Bool { (self.turn + 1) % self.roundCount == 0 }

    var timeout: TimeAmount {
        self.hasOthers && self.turn < self.roundCount ? Self.firstTimeout : Self.answerTimeout
    }
}
