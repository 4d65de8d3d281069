import NIOCore

/// Which carriers there are, and which of them the connection goes on.
extension Initiator {
    /// A carrier is there: an initiation goes out on it at once.
    public mutating func carrierOpened(_ id: CarrierID, _ kind: CarrierKind = .stream, at now: Instant) {
        self.notice(now)
        self.carriers.append(Carrier(id: id, kind: kind, since: now, openedAt: now))
        self.initiate(on: id, at: now)
    }

    public mutating func carrierClosed(_ id: CarrierID, at now: Instant) {
        self.notice(now)
        let wasActive = self.connection?.carrier == id
        self.forgetCarrier(id, at: now)
        // What stood by takes over at once.
        if wasActive, self.connection?.isActive ?? false { self.choose(at: now) }
    }

    private mutating func forgetCarrier(_ id: CarrierID, at now: Instant) {
        let wasStream = self.carriers.contains { $0.id == id && $0.kind == .stream && $0.isBound }
        self.carriers.removeAll { $0.id == id }
        self.pending.removeAll { $0.carrier == id }
        if wasStream, !self.carriers.contains(where: { $0.kind == .stream && $0.isAnswered }) {
            self.connection?.streamEndedBesides(at: now)
        }
        self.connection?.carrierClosed(id, isLast: !self.carriers.contains { $0.isAnswered }, at: now)
        self.collectEvents(at: now)
    }

    mutating func closeCarriers(at now: Instant, where isUseless: (Carrier) -> Bool) {
        for carrier in self.carriers.filter(isUseless) {
            self.events.append(.closeCarrier(carrier.id))
            self.forgetCarrier(carrier.id, at: now)
        }
    }

    // MARK: Choosing

    /// The newest session on the best carrier that has been answered. What is left is closed; a byte stream stays beside
    /// datagrams, for when they get through no more.
    mutating func choose(isNew: Bool = false, at now: Instant) {
        guard let newest = self.sessions.last?.session, let best = self.bestCarrier else { return }
        let before = self.connection?.carrier
        if isNew { for at in self.carriers.indices { self.carriers[at].isBound = false } }
        self.connection?.move(to: best.id, best.kind, session: newest, at: now)
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

    /// Datagrams where they get through: one lost message stops nothing there.
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

    /// Datagrams that get through no more: the byte stream beside them takes over, and initiations find out when they are
    /// back. Without one they are all there is.
    mutating func leaveTheDark(at now: Instant) {
        let active = self.connection?.carrier
        guard let at = self.carriers.firstIndex(where: { $0.id == active }), self.carriers[at].kind == .datagrams,
            !self.carriers[at].isDark, self.connection?.isDark(at: now) ?? false
        else { return }
        if !self.carriers[at].wasReportedLost {
            self.carriers[at].wasReportedLost = true
            self.events.append(.datagramsAreLost(self.carriers[at].id))
        }
        guard self.carriers.contains(where: { $0.kind == .stream && $0.isAnswered }) else { return }
        self.carriers[at].wasReportedLost = false
        self.carriers[at].isDark = true
        self.carriers[at].attempts = 0
        self.carriers[at].since = now
        let id = self.carriers[at].id
        self.choose(at: now)
        self.initiate(on: id, at: now)
    }

    /// Whether datagrams are what the connection goes on.
    public var usesDatagrams: Bool {
        switch self.connection {
        case .some(let connection): connection.usesDatagrams
        case .none: false
        }
    }

    /// The system refuses messages of this size on this carrier.
    public mutating func messageTooLong(_ size: Int, on carrier: CarrierID, at now: Instant) {
        guard self.connection?.carrier == carrier else { return }
        self.connection?.messageTooLong(size, at: now)
    }
}
