import NIOCore

/// How great a message a path of datagrams takes: DPLPMTUD (RFC 8899), in bytes of UDP payload.
///
/// ```
///   base (1,200) ── probe of a greater size acknowledged ──▶ greater … ── nothing greater is left ──▶ done
///     ▲                                                                                               │ 10 min
///     └── several great messages lost, small ones not (black hole) ◀── all states     search again ◀──┘
/// ```
///
/// All sizes above the base seal a multiple of 64 bytes: closer isn't worth the probes.
struct PathMTU {
    /// What is known to get through.
    private(set) var current = Constants.baseDatagramSize
    /// No message greater than this one gets through, or none may be sent.
    private var ceiling: Int
    private let greatest: Int
    private var probing: Int?
    private var failures = 0
    private var searchAgainAt: Instant?
    /// A size that failed is tried again, but not at once: a queue that was full then may not be.
    private var retryAt: Instant?
    /// Messages greater than the base that were lost, and none that is as great and younger has got through: how many, and
    /// the size of the smallest.
    private var greatLost = 0
    private var smallestLost = Int.max
    private var firstLostAt: Instant?
    /// The youngest message greater than the base that got through, and the youngest of the present size.
    private var youngestGreat: (number: UInt64, size: Int)?
    private var youngestFull: (number: UInt64, size: Int)?
    /// The number of the last black hole's messages isn't counted twice: those sent before it say nothing new.
    private var fellAt: Instant?

    /// Sizes of well-known paths less IP's and UDP's headers: tunnels in tunnels, Ethernet over IPv6 and IPv4, jumbo frames,
    /// our greatest message, the loopback.
    private static let steps = [1_248, 1_312, 1_376, 1_440, 8_928, 16_416, 65_504]
    /// Ethernet first, over IPv4, IPv6 or PPPoE: what nearly all paths take.
    private static let first = 1_440
    /// RFC 8899 §5.1.2, MAX_PROBES.
    private static let probesOfOneSize = 3
    /// RFC 8899 §5.1.1, PMTU_RAISE_TIMER.
    static let raiseInterval = TimeAmount.seconds(600)
    /// RFC 8899 §5.1.1, the least PROBE_TIMER.
    static let retryInterval = TimeAmount.seconds(1)
    /// So many great messages in a row: a path that loses three of ten does that once in 4,000 messages. †
    static let blackHoleLosses = 7

    /// - Parameter greatest: what the two sides and the address family allow.
    init(greatest: Int) {
        self.greatest = Self.fitting(greatest)
        self.ceiling = self.greatest
    }

    /// The greatest size that is no greater and worth using; the base, where there is none.
    private static func fitting(_ size: Int) -> Int {
        let sealed = (size - Constants.dataOverhead) & ~(Constants.datagramSizeUnit - 1)
        return max(Constants.baseDatagramSize, sealed + Constants.dataOverhead)
    }

    // MARK: Probing

    /// The size to try now; nil while one is under way, or when nothing greater is left. Mutating, as `Connection.hasEvents`.
    mutating func probeSize(at now: Instant) -> Int? {
        guard self.probing == nil else { return nil }
        if let searchAgainAt, now < searchAgainAt { return nil }
        if let retryAt, now < retryAt { return nil }
        let ceiling = self.searchAgainAt == nil ? self.ceiling : self.greatest
        guard self.current < ceiling else { return nil }
        if self.current < Self.first, Self.first <= ceiling { return Self.first }
        if let step = Self.steps.first(where: { $0 > self.current && $0 <= ceiling }) { return step }
        // Between two steps, of which the greater failed: halves.
        let middle = Self.fitting((self.current + ceiling) / 2)
        let size = middle > self.current ? middle : Self.fitting(self.current + Constants.datagramSizeUnit)
        return size <= ceiling ? size : nil
    }

    mutating func probeSent(_ size: Int) {
        if self.searchAgainAt != nil {
            self.searchAgainAt = nil
            self.ceiling = self.greatest
        }
        self.probing = size
    }

    /// - Parameter isAmongOthers: smaller ones were found lost with it.
    mutating func probeLost(_ size: Int, isAmongOthers: Bool, at now: Instant) {
        guard self.probing == size else { return }
        self.probing = nil
        self.retryAt = now + Self.retryInterval
        // Lost with smaller ones, it was lost as they were.
        if !isAmongOthers { self.failures += 1 }
        if self.failures >= Self.probesOfOneSize { self.lower(to: Self.fitting(size - 1), at: now) }
    }

    private mutating func lower(to ceiling: Int, at now: Instant) {
        self.failures = 0
        self.retryAt = nil
        self.ceiling = max(self.current, min(self.ceiling, ceiling))
        // What was found small may have been so for a while only.
        if self.probeSize(at: now) == nil { self.searchAgainAt = now + Self.raiseInterval }
    }

    // MARK: What became of messages

    mutating func acknowledged(_ size: Int, number: UInt64, isProbe: Bool, at now: Instant) {
        if size > Constants.baseDatagramSize {
            if self.youngestGreat.map({ number > $0.number }) ?? true { self.youngestGreat = (number, size) }
            if size >= self.current, self.youngestFull.map({ number > $0.number }) ?? true {
                self.youngestFull = (number, size)
            }
            if size >= self.smallestLost { self.forgetLost() }
        }
        guard isProbe, size == self.probing else { return }
        self.probing = nil
        self.failures = 0
        self.current = max(self.current, size)
        if self.probeSize(at: now) == nil, self.searchAgainAt == nil, self.current < self.greatest {
            self.searchAgainAt = now + Self.raiseInterval
        }
    }

    private mutating func forgetLost() {
        self.greatLost = 0
        self.smallestLost = .max
        self.firstLostAt = nil
    }

    /// Returns whether the path has become smaller than was thought: all greater messages are lost with this one.
    ///
    /// - Parameter patience: a full queue, which has room for small ones first, loses great ones for no longer.
    mutating func lost(_ size: Int, number: UInt64, sentAt: Instant, patience: TimeAmount, at now: Instant) -> Bool {
        guard size > Constants.baseDatagramSize else { return false }
        if let fellAt, sentAt <= fellAt { return false }
        // A full queue loses many in a row, too; but what comes after them is as great, and gets through.
        for youngest in [self.youngestFull, self.youngestGreat] {
            if let youngest, youngest.number > number, youngest.size >= size { return false }
        }
        self.greatLost += 1
        self.smallestLost = min(self.smallestLost, size)
        let firstLostAt = self.firstLostAt ?? sentAt
        self.firstLostAt = firstLostAt
        guard self.greatLost >= Self.blackHoleLosses, sentAt - firstLostAt >= patience else { return false }
        self.fall(below: size, at: now)
        return true
    }

    /// The system refuses messages of this size on this path: a link here is smaller.
    mutating func tooLong(_ size: Int, at now: Instant) {
        if self.probing == size { self.probing = nil }
        if size <= self.current { self.fall(below: size, at: now) }
        self.lower(to: Self.fitting(size - 1), at: now)
    }

    private mutating func fall(below size: Int, at now: Instant) {
        self.current = Constants.baseDatagramSize
        self.forgetLost()
        self.failures = 0
        self.retryAt = nil
        self.probing = nil
        self.fellAt = now
        self.searchAgainAt = nil
        self.ceiling = Self.fitting(size - 1)
    }
}
