import NIOCore
import Noise

/// Whose initiation on a byte stream is worth the Curve25519 work, and when (PROTOCOL, silence).
///
/// The key that it is of is known only after that work. So each stream has a limit of its own, and those that share the strangers'
/// budget take turns at it: one that repeats an initiation as fast as it can gets no more of it than each of the others.
///
/// ```
///   mac1 is right ── more than its stream may ──▶ dropped
///        │
///        ├── on a connection's stream ──▶ opened, within the connection's own limit
///        └── else ── budget left, nobody waits ──▶ opened
///                         └── waits for its stream's turn, one of each stream ──▶ opened
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
        // Its own memory: it was read with much else, which isn't kept for it.
        self.carriers[at].waiting = ByteBuffer(bytes: initiation.message.readableBytesView)
        self.waitingInitiations += 1
        return .waits
    }

    private mutating func verdict(_ dropped: DropReason?) -> MessageVerdict {
        guard let dropped else { return .taken }
        return self.drops.count(dropped)
    }

    /// When those that wait have their turn. It is several at a time, since a timer costs as much as opening some of them.
    var nextTurn: Instant? {
        self.waitingInitiations > 0 ? self.handshakeBudget.next(Constants.initiationsInATurn) : nil
    }

    /// As many as there is budget for, each stream after the one before it.
    mutating func takeTurns(at now: Instant) {
        while self.waitingInitiations > 0, self.handshakeBudget.take(at: now) {
            let isNext = { (carrier: Carrier) in carrier.waiting != nil }
            guard
                let at = self.carriers.firstIndex(where: { isNext($0) && $0.id > self.lastTurn })
                    ?? self.carriers.firstIndex(where: isNext),
                let message = self.carriers[at].waiting,
                let initiation = ReceivedInitiation(message, self.receivingMac)
            else {
                // None waits any more: their streams were closed.
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
    /// A stranger's stream may a few times; a known key's as often as an initiator that has lost its response tries again.
    fileprivate func mayOpen(at now: Instant) -> Bool {
        if let last = self.openedLastAt, now < last + Constants.openingInterval { return false }
        return self.isKnown || self.openings < Constants.openingsPerCarrier
    }
}

/// So many at once, and so many a second from then on.
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

    /// When there are so many again, after a refusal.
    func next(_ count: Int) -> Instant? { self.filledAt.map { $0 + .nanoseconds(Int64(count) * self.interval) } }
}
