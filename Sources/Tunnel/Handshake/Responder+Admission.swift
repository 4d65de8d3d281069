import NIOCore
import Noise

/// Decides which initiations on byte streams are worth the Curve25519 work, and when (PROTOCOL, silence).
///
/// Only that work shows which key an initiation is from. So each stream has a limit of its own, and strangers' streams take
/// turns at one shared budget: a stream that repeats an initiation as fast as it can gets no more of the budget than each of
/// the others.
///
/// ```
///   mac1 is right ── over its stream's limit ──▶ dropped
///        │
///        ├── on a connection's stream ──▶ opened, within the connection's own limit
///        └── otherwise ── budget left, none waiting ──▶ opened
///                         └── waits for its stream's turn, one per stream ──▶ opened
/// ```
extension Responder {
    mutating func admit(_ initiation: ReceivedInitiation, onCarrierAt at: Int, at now: Instant) -> MessageVerdict {
        let id = self.carriers[at].id
        if let link = self.carriers[at].link {
            guard link.handshakes.allows(at: now) else { return self.drops.count(.overBudget) }
            return self.verdict(self.receive(initiation, from: .stream(id), at: now))
        }
        guard self.carriers[at].mayOpen(at: now), self.carriers[at].waiting == nil else {
            return self.drops.count(.overBudget)
        }
        self.carriers[at].openings += 1
        self.carriers[at].openedLastAt = now
        if self.waitingInitiations == 0, self.handshakeBudget.take(at: now) {
            return self.verdict(self.receive(initiation, from: .stream(id), at: now))
        }
        // A copy, so that the large buffer that it was read into isn't kept alive.
        self.carriers[at].waiting = ByteBuffer(bytes: initiation.message.readableBytesView)
        self.waitingInitiations += 1
        return .waits
    }

    private mutating func verdict(_ dropped: DropReason?) -> MessageVerdict {
        guard let dropped else { return .taken }
        return self.drops.count(dropped)
    }

    /// When waiting initiations are opened next: several at a time, since a timer costs as much as opening some of them.
    var nextTurn: Instant? {
        self.waitingInitiations > 0 ? self.handshakeBudget.next(Constants.initiationsInATurn) : nil
    }

    /// Opens as many waiting initiations as the budget allows, one stream after the other.
    mutating func takeTurns(at now: Instant) {
        while self.waitingInitiations > 0, self.handshakeBudget.take(at: now) {
            let isNext = { (carrier: Carrier) in carrier.waiting != nil }
            guard
                let at = self.carriers.firstIndex(where: { isNext($0) && $0.id > self.lastTurn })
                    ?? self.carriers.firstIndex(where: isNext),
                let message = self.carriers[at].waiting,
                let initiation = ReceivedInitiation(message, self.receivingMac)
            else {
                // Their streams were closed: none waits any more.
                self.waitingInitiations = 0
                return
            }
            let id = self.carriers[at].id
            self.lastTurn = id
            self.carriers[at].waiting = nil
            self.waitingInitiations -= 1
            if let dropped = self.receive(initiation, from: .stream(id), at: now) {
                _ = self.drops.count(dropped)
            } else {
                self.events.append(.answered(id))
            }
        }
    }
}

extension Responder.Carrier {
    /// A stranger's stream may have a few initiations opened; a known key's stream any number, since its initiator may have
    /// lost a response.
    fileprivate func mayOpen(at now: Instant) -> Bool {
        if let last = self.openedLastAt, now < last + Constants.openingInterval { return false }
        return self.isKnown || self.openings < Constants.openingsPerCarrier
    }
}

/// A token bucket: `atOnce` handshakes at once, then `perSecond` a second.
struct HandshakeBudget {
    private let interval: Int64
    private let atOnce: Int64
    private var left: Int64
    private var filledAt: Instant?

    init(perSecond: Int, atOnce: Int) {
        self.interval = 1_000_000_000 / Int64(perSecond)
        self.atOnce = Int64(atOnce)
        self.left = Int64(atOnce)
    }

    mutating func take(at now: Instant) -> Bool {
        if let filledAt = self.filledAt, now >= filledAt {
            let new = min(self.atOnce, (now - filledAt).nanoseconds / self.interval)
            self.left = min(self.atOnce, self.left + new)
            self.filledAt = self.left == self.atOnce ? now : filledAt + .nanoseconds(new * self.interval)
        } else {
            self.filledAt = now
        }
        guard self.left > 0 else { return false }
        self.left -= 1
        return true
    }

    /// After a refusal: when `count` handshakes are available again.
    func next(_ count: Int) -> Instant? { self.filledAt.map { $0 + .nanoseconds(Int64(count) * self.interval) } }
}

/// Allows `perSecond` events in a second. A second begins with its first event.
struct RateLimit {
    let perSecond: Int
    private var second: Instant?
    private var count = 0

    init(perSecond: Int) { self.perSecond = perSecond }

    mutating func allows(at now: Instant) -> Bool {
        if let second = self.second, now >= second, now - second < .seconds(1) {
            guard self.count < self.perSecond else { return false }
        } else {
            self.second = now
            self.count = 0
        }
        self.count += 1
        return true
    }
}
