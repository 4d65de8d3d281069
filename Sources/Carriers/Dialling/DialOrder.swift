import NIOCore
import Tunnel

/// The order in which a sidecar's addresses are tried.
///
/// It is the given order, except that addresses that failed recently come last. So the address that worked is tried first for
/// a while, and the preferred one gets another chance later.
struct DialOrder {
    /// In order of preference.
    let addresses: [TunnelClient.Address]
    private var failedAt: [TunnelClient.Address: Instant] = [:]

    /// How long an address comes last after a failure. †
    static let setBack = TimeAmount.seconds(30)

    init(_ addresses: [TunnelClient.Address]) { self.addresses = addresses }

    func attempt(at now: Instant) -> [TunnelClient.Address] {
        let isSetBack = self.addresses.map { address in
            self.failedAt[address].map { now - $0 < Self.setBack } ?? false
        }
        let pairs = zip(self.addresses, isSetBack)
        return pairs.filter { !$0.1 }.map(\.0) + pairs.filter { $0.1 }.map(\.0)
    }

    mutating func failed(_ address: TunnelClient.Address, at now: Instant) {
        guard self.addresses.contains(address) else { return }
        self.failedAt[address] = now
    }

    mutating func answered(_ address: TunnelClient.Address) { self.failedAt[address] = nil }
}
