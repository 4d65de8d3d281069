/// How long to wait before a process that ended is started again. The delays grow, and start over once it has lived for a
/// while.
package struct Backoff: Equatable, Sendable {
    /// In milliseconds; the last one is repeated.
    let delays: [Int64]
    /// In milliseconds; after a life of this length the delays start over.
    let resetAfter: Int64 = 10_000
    private var failures = 0

    package init(_ delays: [Int64]) { self.delays = delays }

    /// - Parameter life: how long the process lived, in milliseconds.
    package mutating func next(afterLifeOf life: Int64) -> Int64 {
        if life >= self.resetAfter { self.failures = 0 }
        defer { self.failures += 1 }
        return self.delays.isEmpty ? 0 : self.delays[min(self.failures, self.delays.count - 1)]
    }
}
