import NIOCore

/// A model of the path (its bandwidth, its round trip, and how much it holds) decides how much is sent, in the manner of BBR
/// (draft-ietf-ccwg-bbr-04), which the phases and their names come from.
///
/// ```
///   startup ── no faster for 3 rounds, or heavy loss ──▶ drain ──▶ down ─▶ cruise ─▶ refill ─▶ up ─┐
///                                                                   ▲                              │
///                                                                   └──────────────────────────────┘
///   any ── round trip not seen at its least for 10 s ──▶ probeRTT (200 ms) ──▶ cruise
/// ```
///
/// It differs from BBR in how it reads losses. BBR lowers its bounds when a round loses 2 %, which radio links lose even
/// without other traffic. Here, a round's losses mean a full queue if they exceed the path's usual loss by a margin *and* the
/// round trip shows a queue, or if they are so heavy that nothing else explains them.
/// Units are bytes, and seconds as `Double`.
struct ModelController: CongestionController {
    enum Phase { case startup, drain, down, cruise, refill, up, probeRTT }

    // Gains: draft-ietf-ccwg-bbr-04 §2.4.
    private static let startupGain = 2.77
    private static let drainGain = 0.5
    private static let windowGain = 2.0
    private static let upGain = 1.25
    private static let downGain = 0.9
    private static let headroom = 0.85
    private static let beta = 0.7
    private static let fullGrowth = 1.25
    private static let fullRounds = 3
    private static let minRTTLifetime = 10.0
    private static let probeRTTDuration = 0.2
    private static let probeRTTGain = 0.5
    /// The length of cruise: as long as a Reno flow of this window takes between two losses, but no longer than this. †
    private static let cruiseSeconds = 2.0...3.0
    private static let cruiseRoundsAtMost: UInt64 = 63
    /// A round that loses this much more than usual, and shows a queue, means a full queue. †
    private static let lossMargin = 0.03
    /// A round trip this much above the smallest shows a queue. †
    private static let queueShows = 1.15
    private static let queueShowsSeconds = 0.002
    /// This much loss means a full queue even if the round trip shows none, as with a policer. †
    private static let heavyLoss = 0.2
    /// How many messages are needed to judge a round's loss. †
    private static let messagesJudged = 50.0

    private var messageSize: Double
    private(set) var phase = Phase.startup
    private var randomState: UInt64

    // The model
    /// The highest samples of this cycle and of the previous one.
    private var bandwidths = (present: 0.0, before: 0.0)
    private var shortTermBandwidth = Double.infinity
    private var inflightLong = Double.infinity
    private var inflightShort = Double.infinity
    private var minRTT: Double?
    private var minRTTAt = Instant(nanoseconds: 0)
    private var saved: (bandwidth: Double, long: Double, short: Double)?

    // Rounds
    private var roundEndsAt: UInt64 = 0
    private var rounds: UInt64 = 0
    private var lostInRound = 0
    private var deliveredInRound = 0
    private var latestBandwidth = 0.0
    private var latestInflight = 0.0
    private var roundRTT = Double.infinity
    private var roundHadQueue = false
    private var usualLoss = 0.0

    // Startup
    private var fullBandwidth = 0.0
    private var fullCount = 0
    private var isFull = false

    // Cycle
    private var phaseSince = Instant(nanoseconds: 0)
    private var phaseRound: UInt64 = 0
    private var cruise = 0.0
    private var upGrowth = 1.0
    private var lossSeenInUp = false
    private var probeRTTUntil: Instant?
    private var probedRTT = 0.0

    // Acknowledgements that come in lumps
    private var lump: (since: Instant, bytes: Double)?
    private var extraAcked = (present: 0.0, before: 0.0)
    private var extraRound: UInt64 = 0

    private var congestionWindow: Double
    private var windowBeforeProbe = 0.0

    init(messageSize: Int, random seed: UInt64) {
        self.messageSize = Double(messageSize)
        self.randomState = seed | 1
        self.congestionWindow = Double(Congestion.initialWindow(messageSize))
    }

    var window: Int { Int(min(self.congestionWindow, 1e12)) }

    var pacingRate: Double? {
        guard self.bandwidth > 0 else { return nil }
        return self.bandwidth * self.pacingGain
    }

    // MARK: The model

    private var bandwidth: Double { min(self.longTermBandwidth, self.shortTermBandwidth) }
    private var longTermBandwidth: Double { max(self.bandwidths.present, self.bandwidths.before) }
    private var least: Double { 4 * self.messageSize }

    private func product(_ gain: Double) -> Double {
        guard let minRTT, self.bandwidth > 0 else { return Double(Congestion.initialWindow(Int(self.messageSize))) }
        return max(self.least, gain * self.bandwidth * minRTT)
    }

    private var pacingGain: Double {
        switch self.phase {
        case .startup: Self.startupGain
        case .drain: Self.drainGain
        case .down: Self.downGain
        case .up: Self.upGain
        case .cruise, .refill, .probeRTT: 1
        }
    }

    mutating func messageSizeChanged(to size: Int) {
        self.messageSize = Double(size)
        if self.bandwidth == 0 {
            self.congestionWindow = max(self.congestionWindow, Double(Congestion.initialWindow(size)))
        }
        self.congestionWindow = max(self.congestionWindow, self.least)
    }

    mutating func didAcknowledge(_ news: AckNews) {
        let isRoundStart = self.countRound(news)
        self.updateBandwidth(news.rate)
        self.updateRoundTrip(news)
        self.updateExtra(news)
        if isRoundStart { self.judgeRound(news) }
        self.checkStartup(isRoundStart, news)
        self.advance(isRoundStart, news)
        self.checkProbeRTT(news)
        self.updateWindow(news)
    }

    private mutating func countRound(_ news: AckNews) -> Bool {
        self.deliveredInRound += news.bytes
        guard news.rate.priorDelivered >= self.roundEndsAt else { return false }
        self.roundEndsAt = news.rate.delivered
        self.rounds += 1
        return true
    }

    private mutating func updateBandwidth(_ sample: RateSample) {
        guard let rate = sample.bytesPerSecond else { return }
        self.latestInflight = max(self.latestInflight, Double(sample.inFlightAtSend))
        self.latestBandwidth = max(self.latestBandwidth, rate)
        if !sample.isAppLimited || rate >= self.longTermBandwidth {
            self.bandwidths.present = max(self.bandwidths.present, rate)
        }
    }

    private mutating func updateRoundTrip(_ news: AckNews) {
        let latest = max(1e-6, Double(news.latest.nanoseconds) / 1e9)
        self.roundRTT = min(self.roundRTT, latest)
        if self.minRTT.map({ latest <= $0 }) ?? true {
            self.minRTT = latest
            self.minRTTAt = news.now
        }
    }

    /// Wi-Fi acknowledges in bursts: what they hold beyond the bandwidth is added to the window.
    private mutating func updateExtra(_ news: AckNews) {
        if self.rounds >= self.extraRound + 5 {
            self.extraRound = self.rounds
            self.extraAcked = (0, self.extraAcked.present)
        }
        var lump = self.lump ?? (news.now, 0)
        let expected = self.bandwidth * Self.seconds(from: lump.since, to: news.now)
        if lump.bytes <= expected { lump = (news.now, 0) }
        lump.bytes += Double(news.bytes)
        let passed = self.bandwidth * Self.seconds(from: lump.since, to: news.now)
        let extra = min(lump.bytes - passed, self.congestionWindow, self.bandwidth * 0.1)
        self.extraAcked.present = max(self.extraAcked.present, extra)
        self.lump = lump
    }

    private static func seconds(from: Instant, to: Instant) -> Double {
        max(0, Double((to - from).nanoseconds) / 1e9)
    }

    // MARK: Loss

    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant) {
        self.lostInRound += bytes
        if isPersistent { self.congestionWindow = self.least }
    }

    /// Judges once a round whether its losses mean a full queue.
    private mutating func judgeRound(_ news: AckNews) {
        let sent = self.lostInRound + self.deliveredInRound
        let loss = sent > 0 ? Double(self.lostInRound) / Double(sent) : 0
        let minRTT = self.minRTT ?? 1
        let hasQueue = self.roundRTT > max(minRTT * Self.queueShows, minRTT + Self.queueShowsSeconds)
        // One loss is a large share of a few messages: then several rounds are judged together.
        guard Double(sent) >= Self.messagesJudged * self.messageSize else { return }
        self.roundHadQueue = hasQueue
        let isFullQueue =
            (loss > self.usualLoss + Self.lossMargin && hasQueue || loss > max(Self.heavyLoss, 2 * self.usualLoss))
        if isFullQueue {
            self.queueIsFull(news)
        } else if !hasQueue {
            self.usualLoss += (loss - self.usualLoss) / 8
        }
        self.lostInRound = 0
        self.deliveredInRound = 0
        self.latestBandwidth = 0
        self.latestInflight = 0
        self.roundRTT = .infinity
    }

    private mutating func queueIsFull(_ news: AckNews) {
        self.saved = (self.shortTermBandwidth, self.inflightLong, self.inflightShort)
        switch self.phase {
        case .startup: break
        case .up, .refill:
            self.lossSeenInUp = true
            self.inflightLong = max(self.latestInflight, self.product(1) * Self.beta)
        case .drain, .down, .cruise, .probeRTT:
            if self.shortTermBandwidth == .infinity { self.shortTermBandwidth = self.longTermBandwidth }
            if self.inflightShort == .infinity { self.inflightShort = self.congestionWindow }
            self.shortTermBandwidth = max(self.latestBandwidth, self.shortTermBandwidth * Self.beta)
            self.inflightShort = max(self.latestInflight * Self.beta, self.inflightShort * Self.beta, self.least)
        }
    }

    mutating func didFindSpuriousLoss(at now: Instant) {
        self.lostInRound = 0
        guard let saved else { return }
        self.shortTermBandwidth = max(self.shortTermBandwidth, saved.bandwidth)
        self.inflightLong = max(self.inflightLong, saved.long)
        self.inflightShort = max(self.inflightShort, saved.short)
        self.saved = nil
    }

    // MARK: Phases

    private mutating func enter(_ phase: Phase, at now: Instant) {
        self.phase = phase
        self.phaseSince = now
        self.phaseRound = self.rounds
    }

    private mutating func checkStartup(_ isRoundStart: Bool, _ news: AckNews) {
        guard self.phase == .startup, isRoundStart else { return }
        if self.longTermBandwidth >= self.fullBandwidth * Self.fullGrowth {
            self.fullBandwidth = self.longTermBandwidth
            self.fullCount = 0
        } else if !news.rate.isAppLimited || self.roundHadQueue {
            // A sender that the peer's flow control stops again and again still fills the path, in bursts.
            self.fullCount += 1
        }
        // An overflowing queue shows that the path is full before the third round does.
        if self.fullCount >= Self.fullRounds || self.fullCount >= 1 && self.saved != nil {
            self.isFull = true
            self.saved = nil
            self.enter(.drain, at: news.now)
        }
    }

    private mutating func advance(_ isRoundStart: Bool, _ news: AckNews) {
        let inFlight = Double(news.inFlight)
        switch self.phase {
        case .startup, .probeRTT: break
        case .drain: if inFlight <= self.product(1) { self.beginDown(at: news.now) }
        case .down:
            let roomy = min(self.product(1), self.inflightLong * Self.headroom)
            if inFlight <= roomy || self.rounds >= self.phaseRound + 4 { self.enter(.cruise, at: news.now) }
        case .cruise:
            let perRound = max(8, self.product(1) / self.messageSize)
            let rounds = min(Self.cruiseRoundsAtMost, UInt64(min(perRound, 1e6)))
            if Self.seconds(from: self.phaseSince, to: news.now) >= self.cruise
                || self.rounds >= self.phaseRound + rounds
            {
                self.beginRefill(at: news.now)
            }
        case .refill:
            if isRoundStart, self.rounds > self.phaseRound {
                self.lossSeenInUp = false
                self.upGrowth = 1
                self.enter(.up, at: news.now)
            }
        case .up: self.probeUp(isRoundStart, news)
        }
    }

    private mutating func beginDown(at now: Instant) {
        // A cycle is over: the highest sample of the cycle before it no longer counts.
        self.bandwidths = (0, self.longTermBandwidth == 0 ? 0 : self.bandwidths.present)
        if self.bandwidths.before == 0 { self.bandwidths.before = self.fullBandwidth }
        self.cruise =
            Self.cruiseSeconds.lowerBound + self.random()
            * (Self.cruiseSeconds.upperBound - Self.cruiseSeconds.lowerBound)
        self.enter(.down, at: now)
    }

    private mutating func beginRefill(at now: Instant) {
        self.shortTermBandwidth = .infinity
        self.inflightShort = .infinity
        self.enter(.refill, at: now)
    }

    private mutating func probeUp(_ isRoundStart: Bool, _ news: AckNews) {
        // The bound on bytes in flight grows faster with each round without a full queue.
        if self.inflightLong < .infinity, Double(news.inFlightBefore) + 2 * self.messageSize >= self.inflightLong {
            self.inflightLong += self.upGrowth * Double(news.bytes) * self.messageSize / max(1, self.congestionWindow)
            if isRoundStart { self.upGrowth = min(self.upGrowth * 2, 64) }
        }
        let isTried = self.rounds > self.phaseRound
        let fills = Double(news.inFlight) >= self.product(Self.upGain)
        let shows = self.roundRTT < .infinity && self.roundRTT > (self.minRTT ?? 0) * Self.upGain
        if self.lossSeenInUp || isTried && (fills || shows || news.rate.isAppLimited)
            || self.rounds >= self.phaseRound + 8
        {
            self.beginDown(at: news.now)
        }
    }

    private mutating func checkProbeRTT(_ news: AckNews) {
        let latest = max(1e-6, Double(news.latest.nanoseconds) / 1e9)
        let target = self.product(Self.probeRTTGain)
        if self.phase == .probeRTT {
            // The phase lasts from when little is in flight: only then the measured round trip is the path's own.
            guard let until = self.probeRTTUntil else {
                if Double(news.inFlight) <= target {
                    let seconds = Self.probeRTTDuration + min(latest, 2)
                    self.probeRTTUntil = news.now + .nanoseconds(Int64(seconds * 1e9))
                    self.probedRTT = latest
                }
                return
            }
            self.probedRTT = min(self.probedRTT, latest)
            if news.now >= until { self.endProbeRTT(at: news.now) }
            return
        }
        guard Self.seconds(from: self.minRTTAt, to: news.now) > Self.minRTTLifetime else { return }
        if Double(news.inFlightBefore) <= target {
            // With so little in flight, the measured round trip is the smallest there is.
            self.minRTT = latest
            self.minRTTAt = news.now
        } else {
            self.windowBeforeProbe = self.congestionWindow
            self.enter(.probeRTT, at: news.now)
        }
    }

    private mutating func endProbeRTT(at now: Instant) {
        self.probeRTTUntil = nil
        self.minRTT = self.probedRTT
        self.minRTTAt = now
        self.congestionWindow = max(self.congestionWindow, self.windowBeforeProbe)
        self.enter(self.isFull ? .cruise : .startup, at: now)
    }

    // MARK: The window

    private mutating func updateWindow(_ news: AckNews) {
        let extra = max(self.extraAcked.present, self.extraAcked.before)
        // Room for what the pacer and the kernel's batches send at once.
        let burst = max(3 * self.messageSize, min(self.bandwidth * 0.002, 256 * 1_024))
        let target = self.product(self.phase == .startup ? Self.startupGain : Self.windowGain) + extra + burst
        if self.phase == .startup {
            // The path's capacity is not known yet.
            if self.congestionWindow < target || self.bandwidth == 0 { self.congestionWindow += Double(news.bytes) }
        } else {
            self.congestionWindow = min(self.congestionWindow + Double(news.bytes), target)
        }
        switch self.phase {
        case .startup: break
        case .probeRTT: self.congestionWindow = min(self.congestionWindow, self.product(Self.probeRTTGain))
        case .down, .cruise, .drain:
            self.congestionWindow = min(self.congestionWindow, self.inflightLong * Self.headroom, self.inflightShort)
        case .refill, .up: self.congestionWindow = min(self.congestionWindow, self.inflightLong)
        }
        self.congestionWindow = max(self.congestionWindow, self.least)
    }

    /// Between 0 and 1: it keeps flows that share a path from probing it together. xorshift, which need not be unpredictable.
    private mutating func random() -> Double {
        self.randomState ^= self.randomState << 13
        self.randomState ^= self.randomState >> 7
        self.randomState ^= self.randomState << 17
        return Double(self.randomState >> 11) / Double(1 << 53)
    }
}
