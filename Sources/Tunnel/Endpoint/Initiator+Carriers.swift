import NIOCore

/// The initiator's carriers, and the choice of the one that the connection uses.
extension Initiator {
    /// A carrier is open: an initiation goes out on it at once or, on datagrams that have lapsed while an answered byte
    /// stream is there, after the pause.
    public mutating func carrierOpened(_ id: CarrierID, _ kind: CarrierKind = .stream, at now: Instant) {
        self.notice(now)
        var carrier = Carrier(id: id, kind: kind, since: now, openedAt: now)
        if kind == .datagrams, let lapsedUntil, now < lapsedUntil, self.hasAnsweredStream {
            carrier.retryAt = lapsedUntil
            self.carriers.append(carrier)
        } else {
            self.carriers.append(carrier)
            self.initiate(on: id, at: now)
        }
    }

    /// The network changed: lapses of datagrams on the earlier one say nothing about this one.
    public mutating func networkChanged() {
        self.lapses = 0
        self.lapsedUntil = nil
    }

    private var hasAnsweredStream: Bool { self.carriers.contains { $0.kind == .stream && $0.isAnswered } }

    public mutating func carrierClosed(_ id: CarrierID, at now: Instant) {
        self.notice(now)
        let wasActive = self.connection?.carrier == id
        self.forgetCarrier(id, at: now)
        // The standby carrier takes over at once.
        if wasActive, self.connection?.isActive ?? false { self.choose(at: now) }
    }

    private mutating func forgetCarrier(_ id: CarrierID, at now: Instant) {
        let wasStream = self.carriers.contains { $0.id == id && $0.kind == .stream && $0.isBound }
        self.carriers.removeAll { $0.id == id }
        self.pending.removeAll { $0.carrier == id }
        if !self.hasAnsweredStream {
            if wasStream { self.connection?.streamEndedBesides(at: now) }
            self.askLapsed(at: now)
        }
        self.connection?.carrierClosed(id, isLast: !self.carriers.contains { $0.isAnswered }, at: now)
        self.collectEvents(at: now)
    }

    /// Without an answered byte stream, datagrams that have lapsed are tried at once.
    private mutating func askLapsed(at now: Instant) {
        guard let until = self.lapsedUntil else { return }
        self.lapsedUntil = nil
        for at in self.carriers.indices where self.carriers[at].retryAt == until { self.carriers[at].retryAt = now }
    }

    /// Called when the peer is suspected. If the byte stream in use stays silent, datagrams may get through again: an
    /// initiation asks over them now, before the next one is due.
    mutating func askOverDatagrams(at now: Instant) {
        guard self.lapsedUntil.map({ now >= $0 }) ?? true, !self.usesDatagrams else { return }
        for at in self.carriers.indices where self.carriers[at].kind == .datagrams {
            if let retryAt = self.carriers[at].retryAt, retryAt > now { self.carriers[at].retryAt = now }
        }
    }

    mutating func closeCarriers(at now: Instant, where isUseless: (Carrier) -> Bool) {
        for carrier in self.carriers.filter(isUseless) {
            self.events.append(.closeCarrier(carrier.id))
            self.forgetCarrier(carrier.id, at: now)
        }
    }

    // MARK: Choosing

    /// Moves the connection to the newest session on the best answered carrier. Carriers that this leaves are closed, but a
    /// byte stream stays beside datagrams, in case these stop getting through.
    mutating func choose(isNew: Bool = false, at now: Instant) {
        guard let newest = self.sessions.last?.session, let best = self.bestCarrier else { return }
        let before = self.connection?.carrier
        if isNew { for at in self.carriers.indices { self.carriers[at].isBound = false } }
        if before != best.id, let at = self.carriers.firstIndex(where: { $0.id == best.id }) {
            self.carriers[at].chosenAt = now
        }
        self.connection?.move(to: best.id, best.kind, session: newest, roundTrip: best.handshakeTime, at: now)
        if isNew {
            self.events.append(.established)
        } else if before == nil {
            self.events.append(.resumed(best.id))
        } else if before != best.id {
            self.events.append(.moved(best.id))
        }
        self.bindStandby(beside: best, newest, at: now)
        let answered = self.carriers.filter(\.isAnswered)
        self.closeCarriers(at: now) { carrier in
            carrier.isAnswered && answered.contains { $0.kind == carrier.kind && $0.id > carrier.id }
        }
    }

    /// Datagrams, if they get through: there a lost message blocks no other.
    private var bestCarrier: Carrier? {
        self.carriers.last { $0.isAnswered && $0.kind == .datagrams && !$0.isDark }
            ?? self.carriers.last { $0.isAnswered && $0.kind == .stream }
            ?? self.carriers.last { $0.isAnswered }
    }

    private mutating func bindStandby(beside best: Carrier, _ session: Session, at now: Instant) {
        guard best.kind == .datagrams else { return }
        for at in self.carriers.indices {
            let carrier = self.carriers[at]
            guard carrier.kind == .stream, carrier.isAnswered, !carrier.isBound else { continue }
            var message = ByteBuffer()
            guard self.connection?.writeEmpty(into: &message, with: session, at: now) ?? false else { continue }
            self.carriers[at].isBound = true
            self.carriers[at].outbox = message
        }
    }

    /// If datagrams no longer get through, the byte stream beside them takes over, and initiations over datagrams find out
    /// when they work again. Without such a stream the connection stays on datagrams.
    mutating func leaveTheDark(at now: Instant) {
        let active = self.connection?.carrier
        guard let at = self.carriers.firstIndex(where: { $0.id == active }), self.carriers[at].kind == .datagrams,
            !self.carriers[at].isDark
        else { return }
        guard self.connection?.isDark(at: now) ?? false else {
            self.carriers[at].wasReportedLost = false
            return
        }
        if !self.carriers[at].wasReportedLost {
            self.carriers[at].wasReportedLost = true
            self.events.append(.datagramsAreLost(self.carriers[at].id))
        }
        guard self.hasAnsweredStream else { return }
        self.carriers[at].wasReportedLost = false
        self.carriers[at].isDark = true
        self.carriers[at].attempts = 0
        let id = self.carriers[at].id
        let pause = self.pauseAfterLapse(of: self.carriers[at], at: now)
        self.carriers[at].since = now + pause
        self.choose(at: now)
        if pause > .zero {
            self.lapsedUntil = now + pause
            if let at = self.carriers.firstIndex(where: { $0.id == id }) { self.carriers[at].retryAt = now + pause }
        } else {
            self.initiate(on: id, at: now)
        }
    }

    /// If the datagrams worked for long, this is their first lapse, and they are tried again at once.
    private mutating func pauseAfterLapse(of carrier: Carrier, at now: Instant) -> TimeAmount {
        let held = carrier.chosenAt.map { now - $0 } ?? .zero
        self.lapses = held < Constants.lapseWithin ? min(self.lapses + 1, Constants.lapsePauses.count) : 0
        return self.lapses > 0 ? Constants.lapsePauses[self.lapses - 1] : .zero
    }

    /// Whether the connection uses datagrams.
    public var usesDatagrams: Bool {
        switch self.connection {
        case .some(let connection): connection.usesDatagrams
        case .none: false
        }
    }

    /// The kernel refuses messages of this size on this carrier.
    public mutating func messageTooLong(_ size: Int, on carrier: CarrierID, at now: Instant) {
        guard self.connection?.carrier == carrier else { return }
        self.connection?.messageTooLong(size, at: now)
    }
}
