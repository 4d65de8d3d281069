import NIOCore

/// The closing period of a connection that we ended: messages of the peer are answered with CONNECTION_CLOSE (RFC 9000
/// §10.2.1).
struct Closing {
    let end: ConnectionEnd
    private let since: Instant
    private(set) var until: Instant
    /// CONNECTION_CLOSE has to be written, for the first time or again.
    private(set) var isPending = true
    private(set) var sentAt: Instant?

    init(_ end: ConnectionEnd, lifetime: TimeAmount, at now: Instant) {
        self.end = end
        self.since = now
        self.until = now + lifetime
    }

    /// A byte stream may be too full for the first CONNECTION_CLOSE. Revocation waits for nothing.
    private func mayBeHeldUp(on path: borrowing Path) -> Bool {
        self.sentAt == nil && !path.usesDatagrams && self.end.code != .revoked
    }

    /// Called when CONNECTION_CLOSE is written. If that was held up, the closing period starts anew.
    mutating func closeIsSent(on path: borrowing Path, lifetime: TimeAmount, at now: Instant) {
        if self.mayBeHeldUp(on: path) { self.until = now + lifetime }
        self.isPending = false
        self.sentAt = now
    }

    /// A message has come: it is answered, at most once in a probe timeout.
    mutating func received(at now: Instant, probeTimeout: TimeAmount) {
        if let sentAt, now < sentAt + probeTimeout { return }
        self.isPending = true
    }

    /// Goes on for a probe timeout while CONNECTION_CLOSE is held up. False: the period is over.
    mutating func goOn(on path: borrowing Path, deadAfter: TimeAmount, at now: Instant) -> Bool {
        guard path.carrier != nil, self.isPending, self.mayBeHeldUp(on: path), now < self.since + deadAfter else {
            return false
        }
        self.until = now + path.roundTripTime.probeTimeout
        return true
    }
}

extension Connection {
    /// Ends the connection: the peer is told why, and every stream is over at once.
    public mutating func close(_ code: ErrorCode, reason: String = "", at now: Instant) {
        self.end(ConnectionEnd(code: code, origin: .local, reason: reason), at: now)
    }

    mutating func end(_ end: ConnectionEnd, at now: Instant) {
        guard self.isActive else { return }
        self.dropStreams()
        self.events.append(.ended(end))
        if end.origin == .local, self.carrier != nil, self.session != nil {
            self.state = .closing(Closing(end, lifetime: self.closingLifetime(end), at: now))
        } else {
            self.wipe()
        }
    }

    /// RFC 9000 §10.2: three probe timeouts.
    func closingLifetime(_ end: ConnectionEnd) -> TimeAmount {
        var lifetime = TimeAmount.nanoseconds(3 * self.roundTripTime.probeTimeout.nanoseconds)
        // If the round trip had grown long before the path fell silent, three probe timeouts may exceed `dead_after`, the
        // longest that we wait for any peer.
        if self.usesDatagrams { lifetime = min(lifetime, self.deadAfter) }
        // After revocation, session keys are erased within a second.
        if end.code == .revoked { lifetime = min(lifetime, Constants.revokedLifetime) }
        return lifetime
    }

    mutating func handleClosingDeadline(at now: Instant) {
        guard case .closing(var closing) = self.state, now >= closing.until else { return }
        if closing.goOn(on: self.path, deadAfter: self.deadAfter, at: now) {
            self.state = .closing(closing)
        } else {
            self.wipe()
        }
    }

    /// The session's keys are about to be erased: nothing may be sealed with it any more.
    mutating func forget(_ session: Session) {
        if self.session === session { self.session = nil }
    }

    mutating func wipe() {
        self.state = .closed
        self.flow.leaveMemory()
        self.session = nil
        self.path.close()
    }

    private mutating func dropStreams() {
        self.streams.removeAll()
        self.queues.removeStreams()
        self.datagrams.removeAll()
        self.sent.settleAll(where: { _ in true }, { _ in })
        self.sent.forgetMore()
        self.recovery?.forgetInFlight()
        self.events.removeAll()
        self.flow.removeAll()
    }
}
