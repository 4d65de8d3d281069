import NIOCore

/// How large a message a datagram path carries: DPLPMTUD (RFC 8899), in bytes of UDP payload.
///
/// ```
///   base (1,200) ── probe of a larger size acknowledged ───▶ larger … ─── nothing larger is left ───▶ done
///     ▲                                                                                               │ 10 min
///     └── several large messages lost, small ones not (black hole) ◀── all states     search again ◀──┘
/// ```
///
/// Above the base, the sealed part of every size is a multiple of 64 bytes: a finer search isn't worth the probes.
struct PathMTU {
    /// The size that is known to get through.
    private(set) var current = Constants.baseDatagramSize
    /// The largest size that may still get through.
    private var ceiling: Int
    private let greatest: Int
    private var probing: Int?
    private var failures = 0
    private var searchAgainAt: Instant?
    /// When a size that failed is probed again. Not at once: a queue that was full may have drained by then.
    private var retryAt: Instant?
    /// Lost messages larger than the base, of which no later message of at least the same size was acknowledged: how many,
    /// and the smallest one's size.
    private var greatLost = 0
    private var smallestLost = Int.max
    private var firstLostAt: Instant?
    /// The latest acknowledged message larger than the base, and the latest of the current size.
    private var youngestGreat: (number: UInt64, size: Int)?
    private var youngestFull: (number: UInt64, size: Int)?
    /// When we last fell back. Losses of messages sent before then are ignored.
    private var fellAt: Instant?

    /// Sizes of well-known paths, without IP and UDP headers: tunnels in tunnels, Ethernet over IPv6 and IPv4, jumbo frames,
    /// our default largest message, the loopback.
    private static let steps = [1_248, 1_312, 1_376, 1_440, 8_928, 16_416, 65_504]
    /// The first probe: Ethernet with IPv4, IPv6 or PPPoE, which nearly all paths carry.
    private static let first = 1_440
    /// RFC 8899 §5.1.2, MAX_PROBES.
    private static let probesOfOneSize = 3
    /// RFC 8899 §5.1.1, PMTU_RAISE_TIMER.
    static let raiseInterval = TimeAmount.seconds(600)
    /// RFC 8899 §5.1.1, the smallest PROBE_TIMER.
    static let retryInterval = TimeAmount.seconds(1)
    /// This many large messages lost in a row: a path that loses three of ten does that once in 4,000 messages. †
    static let blackHoleLosses = 7

    /// - Parameter greatest: the largest size that the two sides and the address family allow.
    init(greatest: Int) {
        self.greatest = Self.fitting(greatest)
        self.ceiling = self.greatest
    }

    /// The largest usable size up to this one; the base if there is none.
    private static func fitting(_ size: Int) -> Int {
        let sealed = (size - Constants.dataOverhead) & ~(Constants.datagramSizeUnit - 1)
        return max(Constants.baseDatagramSize, sealed + Constants.dataOverhead)
    }

    // MARK: Probing

    /// The size to probe now; nil while a probe is in flight, or when no larger size is left. `mutating` as
    /// `Connection.hasEvents`.
    mutating func probeSize(at now: Instant) -> Int? {
        guard self.probing == nil else { return nil }
        if let searchAgainAt, now < searchAgainAt { return nil }
        if let retryAt, now < retryAt { return nil }
        let ceiling = self.searchAgainAt == nil ? self.ceiling : self.greatest
        guard self.current < ceiling else { return nil }
        if self.current < Self.first, Self.first <= ceiling { return Self.first }
        if let step = Self.steps.first(where: { $0 > self.current && $0 <= ceiling }) { return step }
        // Between a step that works and a larger one that failed: the middle.
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

    /// - Parameter isAmongOthers: other messages were found lost with the probe.
    mutating func probeLost(_ size: Int, isAmongOthers: Bool, at now: Instant) {
        guard self.probing == size else { return }
        self.probing = nil
        self.retryAt = now + Self.retryInterval
        // A probe that was lost together with other messages says nothing about its size.
        if !isAmongOthers { self.failures += 1 }
        if self.failures >= Self.probesOfOneSize { self.lower(to: Self.fitting(size - 1), at: now) }
    }

    private mutating func lower(to ceiling: Int, at now: Instant) {
        self.failures = 0
        self.retryAt = nil
        self.ceiling = max(self.current, min(self.ceiling, ceiling))
        // The path may be small only for a while, so the search is repeated.
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

    /// Returns whether the path's MTU has fallen: then the messages that are found lost together with this one are no sign of
    /// congestion.
    ///
    /// - Parameter patience: how long losses must last before they count as a black hole: a full queue, which still takes
    ///   small messages, loses large ones for a shorter time.
    mutating func lost(_ size: Int, number: UInt64, sentAt: Instant, patience: TimeAmount, at now: Instant) -> Bool {
        guard size > Constants.baseDatagramSize else { return false }
        if let fellAt, sentAt <= fellAt { return false }
        // A full queue also loses many in a row, but later messages of the same size get through.
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

    /// The kernel refuses messages of this size on this path, since a local link is smaller.
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
