import NIOCore
import Noise

/// Which initiations that came as datagrams are worth the Curve25519 work (PROTOCOL, cookies).
///
/// A flood from forged addresses uses up what those get who have shown nothing; it can't use up what an address gets that
/// has sent its cookie back. So one spoofing host locks nobody out: who is answered by a cookie gets in with the next retry.
struct DatagramAdmission: ~Copyable {
    enum Decision {
        case open
        /// It goes back to the sender; the initiation is forgotten.
        case cookie(Cookie)
        case drop
    }

    private var secret: CookieSecret
    private var secretMadeAt: Instant?
    private let random: RandomSource
    /// Its own: the responder's is empty once nobody is connected, and this secret outlives everyone.
    private let arena = SecretArena()
    private var withoutCookie = RateLimit(perSecond: Constants.initiationsWithoutCookie)
    private var total = RateLimit(perSecond: Constants.handshakeBudgetPerSecond)
    /// What each address that sent its cookie back used in the present second. Emptied with each second, so it needs no
    /// order; who comes when it is full waits for the next one.
    private var sources: [PathAddress: Int] = [:]
    private var second: Instant?

    init(random: RandomSource) {
        self.random = random
        self.secret = CookieSecret(random: random, arena: self.arena)
    }

    /// Judges one whose mac1 is right. `isCookieRight` checks its mac2 against the cookie of its source.
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
