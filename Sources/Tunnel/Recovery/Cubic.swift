import NIOCore

/// CUBIC (RFC 9438) with HyStart++ (RFC 9406). Windows in bytes, times in seconds.
struct Cubic: CongestionController {
    private static let beta = 0.7
    private static let c = 0.4
    /// RFC 9438 §4.3.
    private static let alpha = 3 * (1 - beta) / (1 + beta)

    private var messageSize: Double
    private var congestionWindow: Double
    private var threshold = Double.infinity
    /// Congestion epoch: RFC 9438 §4.1.
    private struct Epoch {
        var startedAt: Instant
        var k: Double
        var estimate: Double
    }
    private var epoch: Epoch?
    private var greatest = 0.0
    private var priorWindow = 0.0
    private var recoveryStartedAt: Instant?
    private var slowStart = SlowStart()
    /// The state before the last reduction, in case it turns out to be spurious: RFC 9438 §4.9.
    private var undo: (window: Double, threshold: Double, greatest: Double, prior: Double, epoch: Epoch?)?

    init(messageSize: Int) {
        self.messageSize = Double(messageSize)
        self.congestionWindow = Double(Congestion.initialWindow(messageSize))
    }

    var window: Int { Int(min(self.congestionWindow, 1e12)) }
    var pacingRate: Double? { nil }
    private var least: Double { 2 * self.messageSize }

    mutating func messageSizeChanged(to size: Int) {
        let size = Double(size)
        // Until the first loss, the window is at least the initial window for this size.
        if self.threshold == .infinity, self.recoveryStartedAt == nil {
            self.congestionWindow = max(self.congestionWindow, Double(Congestion.initialWindow(Int(size))))
        }
        self.messageSize = size
        self.congestionWindow = max(self.congestionWindow, self.least)
    }

    mutating func didAcknowledge(_ news: AckNews) {
        if let started = self.recoveryStartedAt, news.largestSentAt <= started { return }
        // RFC 9002 §7.8: a window that isn't used isn't raised.
        guard Double(news.inFlightBefore) + 3 * self.messageSize >= self.congestionWindow / 2,
            !news.rate.isAppLimited || self.congestionWindow < self.threshold
        else {
            self.epoch = nil
            return
        }
        if self.congestionWindow < self.threshold {
            let divisor = self.slowStart.growthDivisor(news)
            self.congestionWindow += Double(news.bytes) / divisor
            if self.slowStart.isOver { self.threshold = self.congestionWindow }
            return
        }
        self.avoidCongestion(news)
    }

    private mutating func avoidCongestion(_ news: AckNews) {
        let windowInMessages = self.congestionWindow / self.messageSize
        var epoch =
            self.epoch
            ?? {
                let gap = max(0, (self.greatest - self.congestionWindow) / self.messageSize)
                if self.greatest < self.congestionWindow { self.greatest = self.congestionWindow }
                return Epoch(startedAt: news.now, k: Self.cubeRoot(gap / Self.c), estimate: self.congestionWindow)
            }()
        let rtt = Double(news.smoothed.nanoseconds) / 1e9
        let t = min(1e6, Double(max(0, (news.now - epoch.startedAt).nanoseconds)) / 1e9) + rtt
        let distance = t - epoch.k
        let cubic = (Self.c * distance * distance * distance) * self.messageSize + self.greatest
        let target = min(max(cubic, self.congestionWindow), 1.5 * self.congestionWindow)
        let ackedMessages = Double(news.bytes) / self.messageSize
        // RFC 9438 §4.3: grows no slower than Reno.
        let alpha = epoch.estimate >= self.priorWindow ? 1 : Self.alpha
        epoch.estimate += alpha * Double(news.bytes) / windowInMessages
        let grown = self.congestionWindow + (target - self.congestionWindow) / windowInMessages * ackedMessages
        self.congestionWindow = min(max(grown, epoch.estimate), self.congestionWindow + Double(news.bytes))
        self.epoch = epoch
    }

    private static func cubeRoot(_ value: Double) -> Double {
        guard value > 0 else { return 0 }
        // Newton's method from above: it converges from any start, and needs no library.
        var root = max(1, value)
        for _ in 0..<200 {
            let next = (2 * root + value / (root * root)) / 3
            if next >= root { break }
            root = next
        }
        return root
    }

    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant) {
        if self.recoveryStartedAt.map({ largestLostSentAt > $0 }) ?? true {
            self.undo = (self.congestionWindow, self.threshold, self.greatest, self.priorWindow, self.epoch)
            self.recoveryStartedAt = now
            self.slowStart.end()
            self.priorWindow = self.congestionWindow
            // Fast convergence: RFC 9438 §4.7.
            self.greatest =
                self.congestionWindow < self.greatest
                ? self.congestionWindow * (1 + Self.beta) / 2 : self.congestionWindow
            self.congestionWindow = max(self.congestionWindow * Self.beta, self.least)
            self.threshold = self.congestionWindow
            self.epoch = nil
        }
        if isPersistent {
            self.congestionWindow = self.least
            self.recoveryStartedAt = nil
            self.undo = nil
            self.epoch = nil
        }
    }

    mutating func didFindSpuriousLoss(at now: Instant) {
        guard let undo, undo.window > self.congestionWindow else { return }
        self.congestionWindow = undo.window
        self.threshold = undo.threshold
        self.greatest = undo.greatest
        self.priorWindow = undo.prior
        self.epoch = undo.epoch
        self.recoveryStartedAt = nil
        self.undo = nil
    }
}

/// HyStart++: leaves slow start when round trips grow, by way of a slower growth that is taken back if they shrink again.
private struct SlowStart {
    private static let minThreshold: Int64 = 4_000_000
    private static let maxThreshold: Int64 = 16_000_000
    private static let samplesPerRound = 8
    private static let cautiousDivisor = 4.0
    private static let cautiousRounds = 5

    private var roundEndsAt: UInt64 = 0
    private var lastMinimum = Int64.max
    private var minimum = Int64.max
    private var samples = 0
    /// Conservative slow start: the round trip at which it began, and the rounds it has lasted.
    private var cautious: (baseline: Int64, rounds: Int)?
    private(set) var isOver = false

    mutating func end() { self.isOver = true }

    /// The divisor for the window's growth in classic slow start.
    mutating func growthDivisor(_ news: AckNews) -> Double {
        // A second slow start, after persistent congestion, ends at the known threshold.
        if self.isOver { return 1 }
        if news.rate.priorDelivered >= self.roundEndsAt { self.beginRound(news) }
        self.minimum = min(self.minimum, news.latest.nanoseconds)
        self.samples += 1
        guard self.samples >= Self.samplesPerRound, self.minimum < .max else { return self.divisor }
        if let cautious = self.cautious {
            if self.minimum < cautious.baseline { self.cautious = nil }
        } else if self.lastMinimum < .max {
            let threshold = min(max(self.lastMinimum / 8, Self.minThreshold), Self.maxThreshold)
            if self.minimum >= self.lastMinimum + threshold { self.cautious = (self.minimum, 0) }
        }
        return self.divisor
    }

    private var divisor: Double { self.cautious == nil ? 1 : Self.cautiousDivisor }

    private mutating func beginRound(_ news: AckNews) {
        self.roundEndsAt = news.rate.delivered
        self.lastMinimum = self.minimum
        self.minimum = .max
        self.samples = 0
        guard let cautious = self.cautious else { return }
        self.cautious = (cautious.baseline, cautious.rounds + 1)
        if cautious.rounds + 1 >= Self.cautiousRounds { self.isOver = true }
    }
}
