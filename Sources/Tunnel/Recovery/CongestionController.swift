import NIOCore

/// How fast datagrams are sent.
public enum CongestionAlgorithm: Sendable {
    /// RFC 9438, as TCP does it: every loss counts as a full queue.
    case cubic
    /// By a model of the path's bandwidth and round trip, in the manner of BBR: random loss costs little.
    case model
}

/// What one ACK frame tells the congestion controller.
struct AckNews {
    var now: Instant
    /// Newly acknowledged bytes.
    var bytes: Int
    /// When the newest of the messages that the frame newly acknowledges was sent.
    var largestSentAt: Instant
    var latest: TimeAmount
    var smoothed: TimeAmount
    var minimum: TimeAmount
    /// Bytes in flight before the frame came, and now.
    var inFlightBefore: Int
    var inFlight: Int
    /// Bytes that were declared lost because of the frame.
    var lostBytes: Int
    var rate: RateSample
}

/// RFC 9002 §7: the congestion window and the pacing rate.
protocol CongestionController: Sendable {
    /// Bytes that may be in flight.
    var window: Int { get }
    /// Bytes a second; nil: 1.25 windows a round trip (RFC 9002 §7.7).
    var pacingRate: Double? { get }
    mutating func didAcknowledge(_ news: AckNews)
    /// Called once for all messages that were found lost together, before `didAcknowledge` for the same ACK frame.
    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant)
    /// All messages that were recently declared lost have arrived after all.
    mutating func didFindSpuriousLoss(at now: Instant)
    mutating func messageSizeChanged(to size: Int)
}

/// The controller of one path. It holds an enum rather than an existential: nothing is allocated, and calls are direct.
struct Congestion: CongestionController {
    private enum Controller {
        case cubic(Cubic)
        case model(ModelController)
    }

    private var controller: Controller
    // Cached from the controller after each change: every message reads them, and controllers are large values to copy.
    private(set) var window: Int
    private(set) var pacingRate: Double?

    init(_ algorithm: CongestionAlgorithm, messageSize: Int, random seed: UInt64) {
        switch algorithm {
        case .cubic:
            let cubic = Cubic(messageSize: messageSize)
            self.controller = .cubic(cubic)
            self.window = cubic.window
        case .model:
            let model = ModelController(messageSize: messageSize, random: seed)
            self.controller = .model(model)
            self.window = model.window
        }
    }

    /// RFC 9002 §7.2.
    static func initialWindow(_ messageSize: Int) -> Int { min(10 * messageSize, max(14_720, 2 * messageSize)) }

    private mutating func change(
        _ cubicChange: (inout Cubic) -> Void,
        _ modelChange: (inout ModelController) -> Void
    ) {
        switch self.controller {
        case .cubic(var cubic):
            cubicChange(&cubic)
            (self.window, self.pacingRate) = (cubic.window, cubic.pacingRate)
            self.controller = .cubic(cubic)
        case .model(var model):
            modelChange(&model)
            (self.window, self.pacingRate) = (model.window, model.pacingRate)
            self.controller = .model(model)
        }
    }

    mutating func didAcknowledge(_ news: AckNews) {
        self.change({ $0.didAcknowledge(news) }, { $0.didAcknowledge(news) })
    }

    mutating func didLose(bytes: Int, largestLostSentAt: Instant, isPersistent: Bool, inFlight: Int, at now: Instant) {
        func lose(_ controller: inout some CongestionController) {
            controller.didLose(
                bytes: bytes,
                largestLostSentAt: largestLostSentAt,
                isPersistent: isPersistent,
                inFlight: inFlight,
                at: now
            )
        }
        self.change({ lose(&$0) }, { lose(&$0) })
    }

    mutating func didFindSpuriousLoss(at now: Instant) {
        self.change({ $0.didFindSpuriousLoss(at: now) }, { $0.didFindSpuriousLoss(at: now) })
    }

    mutating func messageSizeChanged(to size: Int) {
        self.change({ $0.messageSizeChanged(to: size) }, { $0.messageSizeChanged(to: size) })
    }
}
