/// How long to wait before something that ended is started again: not at all at first, then longer and longer, until it has
/// lived for a while.
struct Backoff: Equatable, Sendable {
    /// In milliseconds; the last one stays.
    let delays: [Int64]
    /// Who has lived so long begins anew.
    let resetAfter: Int64 = 10_000
    private var failures = 0

    init(_ delays: [Int64]) { self.delays = delays }

    /// A sidecar's clients wait in its socket meanwhile.
    static let ofSidecar = Backoff([0, 100, 200, 500, 1_000, 2_000, 5_000])
    static let ofService = Backoff([100, 200, 500, 1_000, 2_000, 5_000, 10_000])

    /// - Parameter life: how long it lived this time, in milliseconds.
    mutating func next(afterLifeOf life: Int64) -> Int64 {
        if life >= self.resetAfter { self.failures = 0 }
        defer { self.failures += 1 }
        return self.delays.isEmpty ? 0 : self.delays[min(self.failures, self.delays.count - 1)]
    }
}
