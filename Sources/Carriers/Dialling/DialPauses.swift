import NIOCore
import Noise
import Tunnel

/// How long a workspace waits before it dials a byte stream again (PROTOCOL, retries).
struct DialPauses {
    enum AfterFailure: Equatable {
        /// Without a report: one failure says little.
        case soon(TimeAmount)
        /// `step` is what is reported, `pause` that and its jitter.
        case later(pause: TimeAmount, step: TimeAmount)
    }

    /// Rounds through all addresses that have failed since a carrier was answered last.
    private var failures = 0

    /// The short steps are for a carrier that breaks during the handshake: the sidecar waits a second for the next one before
    /// it passes new connections to the original service.
    private static let steps: [TimeAmount] =
        [.zero] + [100, 200, 400, 1_000, 2_000, 4_000, 5_000].map { TimeAmount.milliseconds($0) }
    /// Jitter: up to a third of the step, at most 333 ms.
    private static let jitterShare = 3
    private static let jitter = TimeAmount.milliseconds(333)
    /// If a carrier lived less than this, the next one will probably be cut as well: pause before dialling again.
    private static let shortLife = TimeAmount.milliseconds(250)
    private static let shortLifePause = TimeAmount.milliseconds(50)

    /// A carrier was answered, or there is a reason to dial at once.
    mutating func startOver() { self.failures = 0 }

    /// No address could be reached, or none answered.
    ///
    /// - Parameter saysLittle: all that went wrong was a carrier that was closed without an answer.
    mutating func afterFailure(saysLittle: Bool, random: RandomSource) -> AfterFailure {
        // The sidecar may have been busy.
        if self.failures == 0, saysLittle {
            self.failures = 1
            return .soon(Self.shortLifePause)
        }
        let step = Self.steps[min(self.failures, Self.steps.count - 1)]
        self.failures = min(self.failures + 1, Self.steps.count)
        let most = min(Self.jitter.nanoseconds, step.nanoseconds / Int64(Self.jitterShare))
        let jitter = most > 0 ? Int64(random.next() % UInt64(most)) : 0
        return .later(pause: step + .nanoseconds(jitter), step: step)
    }

    /// An answered carrier has closed after so long.
    mutating func afterCarrier(thatLived life: TimeAmount) -> TimeAmount {
        self.failures = max(1, self.failures)
        return life < Self.shortLife ? Self.shortLifePause : .zero
    }
}

/// How long a workspace dials nothing after a connection that ended with an error: 1, 2, 4, 8, then 15 s, starting over after a
/// connection that lasted a minute.
struct ErrorPauses {
    /// Connections in a row that ended with an error; and when the current one began.
    private var endings = 0
    private var establishedAt = Instant(nanoseconds: 0)

    private static let steps: [TimeAmount] = [.seconds(1), .seconds(2), .seconds(4), .seconds(8), .seconds(15)]
    private static let heldLongEnough = TimeAmount.seconds(60)

    mutating func connectionBegan(at now: Instant) { self.establishedAt = now }

    mutating func connectionEndedBadly(at now: Instant) {
        if now - self.establishedAt >= Self.heldLongEnough { self.endings = 0 }
        self.endings = min(self.endings + 1, Self.steps.count)
    }

    /// nil: no connection has ended with an error.
    var current: TimeAmount? { self.endings > 0 ? Self.steps[self.endings - 1] : nil }
}
