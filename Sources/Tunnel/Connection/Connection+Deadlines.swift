import NIOCore

/// What an active connection does by itself when its time has come.
private enum Timer {
    /// The connection has had no carrier for too long, and ends.
    case linger
    /// The peer has given no sign of life for too long.
    case gone
    /// Streams that hold a reset back are checked.
    case held
    case acknowledgement
    /// A message has been in flight for too long.
    case suspicion
    /// The pacer's wait for the next message is over.
    case pacing
    /// The time threshold of RFC 9002 §6.1.2, otherwise the probe timeout of §6.2.
    case loss
    case keepAlive

    var needsCarrier: Bool {
        switch self {
        case .linger, .gone: false
        case .held, .acknowledgement, .suspicion, .pacing, .loss, .keepAlive: true
        }
    }

    /// All, in the order in which `handleDeadline` does what is due. Inlined, so that nothing is left of the timer but its
    /// deadline: the loop over an array costs half a percent of all instructions.
    @inline(__always)
    static func inOrder(_ body: (Timer) -> Void) {
        body(.linger)
        body(.gone)
        body(.held)
        body(.acknowledgement)
        body(.suspicion)
        body(.pacing)
        body(.loss)
        body(.keepAlive)
    }
}

extension Connection {
    /// When the owner must call `handleDeadline` next.
    public var nextDeadline: Instant? {
        switch self.state {
        case .closed: return nil
        case .closing(let closing): return closing.until
        case .active: break
        }
        var next: Instant?
        Timer.inOrder { next = sooner(next, self.deadline($0)) }
        return next
    }

    /// Does what is due. Calling it too early or twice does nothing.
    mutating func handleDeadline(at now: Instant) {
        self.handleClosingDeadline(at: now)
        Timer.inOrder { timer in
            guard self.isActive, let deadline = self.deadline(timer), now >= deadline else { return }
            self.handle(timer, at: now)
        }
        if self.isActive, self.hasCarrier, self.flow.shouldGrow { self.queues.add(.maxData) }
    }

    @inline(__always)
    private func deadline(_ timer: Timer) -> Instant? {
        if timer.needsCarrier, !self.hasCarrier { return nil }
        switch timer {
        case .linger: return self.liveness.lingerDeadline(self.configuration.linger)
        case .gone: return self.presence == .gone ? nil : self.liveness.goneDeadline(self.role)
        case .held: return self.heldDeadline
        case .acknowledgement: return self.received.deadline
        case .suspicion: return self.presence == .live ? self.suspicionDeadline : nil
        case .pacing: return self.recovery?.pacedUntil
        case .loss: return self.recovery?.lossTime ?? self.probeDeadline
        case .keepAlive:
            let isOften = self.usesDatagrams && self.role == .initiator && self.openStreamCount > 0
            return self.liveness.keepAliveDeadline(isOften: isOften)
        }
    }

    private var probeDeadline: Instant? { self.sent.isEmpty ? nil : self.liveness.probeDeadline(self.path) }

    private mutating func handle(_ timer: Timer, at now: Instant) {
        switch timer {
        case .linger: self.end(ConnectionEnd(code: .noError, origin: .lingerOver, reason: ""), at: now)
        case .gone: self.setPresence(.gone)
        case .held: self.checkHeld(at: now)
        case .acknowledgement: self.received.handleDeadline(at: now)
        case .suspicion: self.setPresence(.suspected)
        // Over whether or not the message can be sent, or this deadline would stay in the past.
        case .pacing: self.recovery?.holdBack(until: nil)
        case .loss:
            if self.recovery?.lossTime != nil { self.detectLoss(at: now) } else { self.handleProbeTimeout(at: now) }
        case .keepAlive:
            self.queues.addPing()
            self.liveness.elicited(at: now)
        }
    }

    private mutating func handleProbeTimeout(at now: Instant) {
        self.liveness.probed(at: now)
        // On a byte stream, a probe timeout sends a PING and nothing else.
        if !self.usesDatagrams { self.queues.addPing() } else { self.sendProbes() }
    }
}
