/// What the connections of one responder may hold of streams' data together, in each direction.
///
/// Each may hold a little, whatever the others do. Beyond that they share: none gets more than would then be left for all others,
/// as with Choudhury and Hahne's dynamic thresholds (IEEE/ACM Transactions on Networking 6(2), 1998). So alone one gets all that a
/// connection may have, several that want much get equal parts, and something is left for whoever comes next.
final class StreamMemory {
    let total: UInt64
    /// In use, beyond each one's little.
    @exclusivity(unchecked) fileprivate(set) var promised: UInt64 = 0
    @exclusivity(unchecked) fileprivate(set) var kept: UInt64 = 0

    init(_ configuration: TunnelConfiguration) { self.total = configuration.streamMemory }

    /// What one that has `own` may have.
    fileprivate func most(used: UInt64, own: UInt64) -> UInt64 {
        let free = self.total - min(self.total, used - min(used, own))
        return free / 2
    }
}

/// One connection's part. What it has is free again when this has gone.
final class StreamMemoryPart {
    private let all: StreamMemory
    private let atLeast: UInt64
    @exclusivity(unchecked) private var promised: UInt64 = 0
    @exclusivity(unchecked) private var kept: UInt64 = 0

    init(of all: StreamMemory, _ configuration: TunnelConfiguration) {
        self.all = all
        self.atLeast = configuration.connectionMemoryAtLeast
    }

    deinit {
        self.all.promised -= self.promised
        self.all.kept -= self.kept
    }

    /// What may come from the peer and be held here: the window of all its streams together.
    var mayPromise: UInt64 { self.atLeast + self.all.most(used: self.all.promised, own: self.promised) }

    /// What may be kept for the peer until it has it.
    var mayKeep: UInt64 { self.atLeast + self.all.most(used: self.all.kept, own: self.kept) }

    /// So much is held, or may still come by what the peer was told.
    func promise(_ count: UInt64) {
        let count = count - min(count, self.atLeast)
        guard count != self.promised else { return }
        self.all.promised = self.all.promised - self.promised + count
        self.promised = count
    }

    func keep(_ count: Int) {
        let count = UInt64(max(0, count)) - min(UInt64(max(0, count)), self.atLeast)
        guard count != self.kept else { return }
        self.all.kept = self.all.kept - self.kept + count
        self.kept = count
    }
}
