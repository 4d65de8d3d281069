import NIOCore

/// How fast datagrams are sent.
public enum CongestionAlgorithm: Sendable {
    /// RFC 9438: as TCP does, which takes every loss for a full queue.
    case cubic
    /// By a model of the path, its bandwidth and its round trip, in the manner of BBR: random loss costs little.
    case model
}

/// What one ACK frame says of the path.
struct AckNews {
    var now: Instant
    /// Newly acknowledged.
    var bytes: Int
    /// When the newest of the messages that it newly acknowledges was sent.
    var largestSentAt: Instant
    var latest: TimeAmount
    var smoothed: TimeAmount
    var minimum: TimeAmount
    /// Bytes in flight before it came, and now.
    var inFlightBefore: Int
    var inFlight: Int
    /// Bytes that were declared lost because of it.
    var lostBytes: Int
    var rate: RateSample
}

/// RFC 9002 §7: how much may be in flight, and how fast it goes out.
protocol CongestionController: Sendable {
    /// Bytes that may be in flight.
    var window: Int { get }
    /// Bytes a second; nil: 1.25 windows a round trip (RFC 9002 §7.7).
    var pacingRate: Double? { get }
    mutating func didSend(_ bytes: Int, inFlight: Int, at now: Instant)
    mutating func didAcknowledge(_ news: AckNews)
    /// Called once for all that were found lost together, before `didAcknowledge` for the same ACK frame.
    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant)
    /// All that was held lost of late has arrived after all.
    mutating func didFindSpuriousLoss(at now: Instant)
    mutating func messageSizeChanged(to size: Int)
}

/// The controller of one path. An enum within rather than an existential: nothing is allocated, and calls are direct.
struct Congestion: CongestionController {
    private enum Controller {
        case cubic(Cubic)
        case model(ModelController)
    }

    private var controller: Controller

    init(_ algorithm: CongestionAlgorithm, messageSize: Int, random seed: UInt64) {
        switch algorithm {
        case .cubic: self.controller = .cubic(Cubic(messageSize: messageSize))
        case .model: self.controller = .model(ModelController(messageSize: messageSize, random: seed))
        }
    }

    /// RFC 9002 §7.2.
    static func initialWindow(_ messageSize: Int) -> Int { min(10 * messageSize, max(14_720, 2 * messageSize)) }

    var window: Int {
        switch self.controller {
        case .cubic(let cubic): cubic.window
        case .model(let model): model.window
        }
    }

    var pacingRate: Double? {
        switch self.controller {
        case .cubic(let cubic): cubic.pacingRate
        case .model(let model): model.pacingRate
        }
    }

    mutating func didSend(_ bytes: Int, inFlight: Int, at now: Instant) {
        switch self.controller {
        case .cubic(var cubic):
            cubic.didSend(bytes, inFlight: inFlight, at: now)
            self.controller = .cubic(cubic)
        case .model(var model):
            model.didSend(bytes, inFlight: inFlight, at: now)
            self.controller = .model(model)
        }
    }

    mutating func didAcknowledge(_ news: AckNews) {
        switch self.controller {
        case .cubic(var cubic):
            cubic.didAcknowledge(news)
            self.controller = .cubic(cubic)
        case .model(var model):
            model.didAcknowledge(news)
            self.controller = .model(model)
        }
    }

    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant) {
        switch self.controller {
        case .cubic(var cubic):
            cubic.didLose(
                bytes: bytes,
                largestLostSentAt: largestLostSentAt,
                isPersistent: isPersistent,
                inFlight: inFlight,
                at: now
            )
            self.controller = .cubic(cubic)
        case .model(var model):
            model.didLose(
                bytes: bytes,
                largestLostSentAt: largestLostSentAt,
                isPersistent: isPersistent,
                inFlight: inFlight,
                at: now
            )
            self.controller = .model(model)
        }
    }

    mutating func didFindSpuriousLoss(at now: Instant) {
        switch self.controller {
        case .cubic(var cubic):
            cubic.didFindSpuriousLoss(at: now)
            self.controller = .cubic(cubic)
        case .model(var model):
            model.didFindSpuriousLoss(at: now)
            self.controller = .model(model)
        }
    }

    mutating func messageSizeChanged(to size: Int) {
        switch self.controller {
        case .cubic(var cubic):
            cubic.messageSizeChanged(to: size)
            self.controller = .cubic(cubic)
        case .model(var model):
            model.messageSizeChanged(to: size)
            self.controller = .model(model)
        }
    }
}
