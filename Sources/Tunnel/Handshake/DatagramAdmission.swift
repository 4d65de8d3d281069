import NIOCore
import Noise

/// Decides which initiations in datagrams are worth the Curve25519 work (PROTOCOL, cookies).
///
/// A flood from forged addresses uses up only the budget of addresses without a valid cookie; an address that sends its
/// cookie back has a budget of its own. So one spoofing host locks no peer out: a peer that gets a cookie gets in with its
/// next retry.
struct DatagramAdmission: ~Copyable {
    enum Decision {
        case open
        /// This cookie is sent to the source address; the initiation is forgotten.
        case cookie(Cookie)
        case drop
    }

    private var secret: CookieSecret
    private var secretMadeAt: Instant?
    private let random: RandomSource
    /// A separate arena, because this secret outlives all connections, and the responder's arena should be empty when none is
    /// left.
    private let arena = SecretArena()
    private var withoutCookie = RateLimit(perSecond: Constants.initiationsWithoutCookie)
    private var total = RateLimit(perSecond: Constants.handshakeBudgetPerSecond)
    /// Initiations of this second for each address with a valid cookie. It is emptied every second, so it needs no order;
    /// when it is full, further addresses wait for the next second.
    private var sources: [PathAddress: Int] = [:]
    private var second: Instant?

    init(random: RandomSource) {
        self.random = random
        self.secret = CookieSecret(random: random, arena: self.arena)
    }

    /// Judges an initiation whose mac1 is right. `isCookieRight` checks its mac2 against the cookie of its source.
    mutating func judge(
        from address: PathAddress,
        at now: Instant,
        isCookieRight: (Cookie) -> Bool
    ) -> Decision {
        self.renewSecret(at: now)
        let cookie = address.withCookieBytes { self.secret.cookie(for: $0) }
        if isCookieRight(cookie) {
            return self.countSource(address.source, at: now) && self.total.allows(at: now) ? .open : .drop
        }
        return self.withoutCookie.allows(at: now) && self.total.allows(at: now) ? .open : .cookie(cookie)
    }

    private mutating func renewSecret(at now: Instant) {
        guard let madeAt = self.secretMadeAt else {
            self.secretMadeAt = now
            return
        }
        guard now - madeAt >= Constants.cookieSecretLifetime || now < madeAt else { return }
        self.secret = CookieSecret(random: self.random, arena: self.arena)
        self.secretMadeAt = now
    }

    private mutating func countSource(_ source: PathAddress, at now: Instant) -> Bool {
        if self.second.map({ now < $0 || now - $0 >= .seconds(1) }) ?? true {
            self.second = now
            self.sources.removeAll(keepingCapacity: true)
        }
        let used = self.sources[source] ?? 0
        guard used < Constants.initiationsPerSource, used > 0 || self.sources.count < Constants.sourcesCounted else {
            return false
        }
        self.sources[source] = used + 1
        return true
    }
}
