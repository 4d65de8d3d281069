import NIOCore
import Tunnel

/// In which order a sidecar's addresses are tried.
///
/// As they were given, but for those that failed a moment ago: they stand behind the others. So what worked last is tried
/// first for a while, and what is preferred gets its chance again.
struct DialOrder {
    /// In order of preference.
    let addresses: [TunnelClient.Address]
    private var failedAt: [TunnelClient.Address: Instant] = [:]

    /// How long an address that failed stands behind. †
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
