/// The memory for stream data that the connections of one responder share, in each direction.
///
/// Each connection may hold a minimum, whatever the others do. Beyond that they share: a connection gets at most as much as
/// is then left free for all others, as with Choudhury and Hahne's dynamic thresholds (IEEE/ACM Transactions on Networking
/// 6(2), 1998). So a connection that is alone gets all that one may have, several busy ones get equal parts, and something is
/// left for the next one.
final class StreamMemory {
    let total: UInt64
    /// In use beyond the minimums.
    @exclusivity(unchecked) fileprivate(set) var promised: UInt64 = 0
    @exclusivity(unchecked) fileprivate(set) var kept: UInt64 = 0

    init(_ configuration: TunnelConfiguration) { self.total = configuration.streamMemory }

    /// How much a connection that uses `own` may have.
    fileprivate func most(used: UInt64, own: UInt64) -> UInt64 {
        let free = self.total - min(self.total, used - min(used, own))
        return free / 2
    }
}

/// One connection's part. Deallocating it frees what the connection used.
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

    /// Bytes that the peer may send and that are held here until read: the window of the connection.
    var mayPromise: UInt64 { self.atLeast + self.all.most(used: self.all.promised, own: self.promised) }

    /// Bytes that may be kept until the peer acknowledges them.
    var mayKeep: UInt64 { self.atLeast + self.all.most(used: self.all.kept, own: self.kept) }

    /// Records how much is held, or may still come within the announced limit.
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
