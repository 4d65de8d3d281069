import NIOCore
import Tunnel

/// In which order a sidecar's addresses are tried.
///
/// As they were given, but for those that failed a moment ago: they stand behind the others. So what worked last is tried
/// first for a while, and what is preferred gets its chance again.
struct DialOrder {
    private var failedAt: [Instant?]

    /// How long an address that failed stands behind. †
    static let setBack = TimeAmount.seconds(30)

    init(count: Int) { self.failedAt = Array(repeating: nil, count: count) }

    /// Positions in the list of addresses.
    func attempt(at now: Instant) -> [Int] {
        let isSetBack = self.failedAt.map { $0.map { now - $0 < Self.setBack } ?? false }
        return isSetBack.indices.filter { !isSetBack[$0] } + isSetBack.indices.filter { isSetBack[$0] }
    }

    mutating func failed(_ index: Int, at now: Instant) {
        guard self.failedAt.indices.contains(index) else { return }
        self.failedAt[index] = now
    }

    mutating func answered(_ index: Int) {
        guard self.failedAt.indices.contains(index) else { return }
        self.failedAt[index] = nil
    }
}
