import Carriers
import InterceptModel
import Logging
import NIOCore
import Tunnel

/// From the first dial to the outcome.
///
/// ```
///   starting ── a list is in force ──▶ intercepting ── another workspace takes over ──▶ takenOver
///      │                                    │                                               │
///      │                                shutDown ──▶ ending ◀── shutDown ───────────────────┤
///      │                                               │                                    │
///      └── no answer, refused, shutDown ──▶ over ◀── stopped, or time is up    no connection is open any more
/// ```
extension WorkspaceAgent {
    enum Life {
        /// No list of ports has been in force so far.
        case starting(giveUp: Scheduled<Void>?)
        case intercepting
        /// By another workspace. Connections that were open then may finish.
        case takenOver(by: String)
        case ending(Ending)
        case over

        struct Ending {
            /// How many connections were open when the agent was told to end.
            var openBefore: UInt64
            /// How many of these the sidecar has cut.
            var cut: UInt64 = 0
            var limit: Scheduled<Void>?
            var newHolder: String?
        }

        mutating func end() {
            switch self {
            case .starting(let giveUp): giveUp?.cancel()
            case .ending(let ending): ending.limit?.cancel()
            case .intercepting, .takenOver, .over: break
            }
            self = .over
        }
    }

    var isStarting: Bool { if case .starting = self.life { true } else { false } }
    var isEnding: Bool { if case .ending = self.life { true } else { false } }
    var isOver: Bool { if case .over = self.life { true } else { false } }

    /// The workspace that took the service over, if one has.
    var newHolder: String? {
        switch self.life {
        case .takenOver(let holder): holder
        case .ending(let ending): ending.newHolder
        case .starting, .intercepting, .over: nil
        }
    }

    // MARK: Starting

    /// The sidecar has put a list of ports in force.
    func isInForce() {
        guard case .starting(let giveUp) = self.life else { return }
        giveUp?.cancel()
        self.life = .intercepting
        let address = self.client?.address
        self.log.info(
            self.configuration.kind == .mirror ? "mirroring" : "intercepting",
            metadata: ["sidecar": "\(address.map { "\($0)" } ?? "-")", "carrier": "\(address?.carrier ?? "")"]
        )
        self.tellReady()
    }

    func noAnswer(within limit: TimeAmount) {
        let key = self.configuration.tunnel.staticKey.publicKey
        self.fail(self.trouble.failure ?? .noAnswer(from: self.configuration.sidecar, to: key, for: limit))
    }

    func fail(_ failure: Failure) { self.close(.failed(failure)) }

    // MARK: Taken over

    func takenOver(by holder: String) {
        self.peerLog.warning(
            "taken over by \(holder): open connections go on",
            metadata: ["open": "\(self.openConnections)"]
        )
        self.life.takenOver(by: holder)
        self.lists.wereLost()
        self.tell(.takenOver(by: holder))
        self.endIfTakenOver()
    }

    /// Connections that were open at the takeover may finish. Once none is left, the agent ends.
    func endIfTakenOver() {
        guard let newHolder = self.newHolder, self.openConnections == 0 else { return }
        self.fail(.takenOver(by: newHolder))
    }

    // MARK: Ending

    /// Withdraws the intercept, lets open connections finish within the drain time, and ends.
    ///
    /// - Parameter patience: how long to wait for a carrier, if there is none, to tell the sidecar.
    public func shutDown(patience: TimeAmount = .zero) {
        let wasStarting = self.isStarting
        guard self.life.beginToEnd(open: self.openConnections) else { return }
        let hasCarrier = self.client?.withConnection { $0.hasCarrier } ?? false
        guard !wasStarting, hasCarrier || patience > .zero else { return self.close(.ended) }
        let what = self.configuration.kind == .mirror ? "nothing more is copied" : "new connections reach the original"
        self.log.info("ending: \(what)", metadata: ["open": "\(self.openConnections)"])
        if hasCarrier { self.sendStop() } else { self.end(within: patience) }
    }

    /// Nothing can drain: the open connections were lost when the earlier program crashed.
    func shutDownAfterCrash() {
        guard self.life.beginToEnd(open: 0) else { return }
        self.sendStop()
    }

    /// The sidecar resets what is still open after the drain time and answers `stopped`; 3 s more allow for the way there
    /// and back.
    func sendStop() {
        self.send(.stop)
        self.end(within: .seconds(Int64(self.configuration.drainSeconds) + 3))
    }

    private func end(within limit: TimeAmount) {
        guard case .ending(var ending) = self.life else { return }
        ending.limit?.cancel()
        ending.limit = self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] () -> Void in
            self?.close(.ended)
        }
        self.life = .ending(ending)
    }

    /// Counts a stream that the sidecar cut when its drain time was over.
    func noteCut(_ code: StreamErrorCode) {
        guard code == .shuttingDown, case .ending(var ending) = self.life else { return }
        ending.cut += 1
        self.life = .ending(ending)
    }

    func stopped(total: UInt64, passed: UInt64) {
        guard case .ending(let ending) = self.life else { return }
        self.log.info("ended", metadata: ["total": "\(total)", "passed": "\(passed)"])
        self.counters.stopped(total: total, passed: passed)
        let sum = self.counters.sum
        let open = max(ending.openBefore, ending.cut)
        self.close(.stopped(.init(total: sum.total, passed: sum.passed, open: open, reset: ending.cut)))
    }
}

extension WorkspaceAgent.Life {
    fileprivate mutating func takenOver(by holder: String) {
        switch self {
        case .starting(let giveUp):
            giveUp?.cancel()
            self = .takenOver(by: holder)
        case .intercepting, .takenOver: self = .takenOver(by: holder)
        case .ending(var ending):
            ending.newHolder = holder
            self = .ending(ending)
        case .over: break
        }
    }

    /// - Returns: false if it ends already.
    fileprivate mutating func beginToEnd(open: Int) -> Bool {
        var ending = Ending(openBefore: UInt64(open))
        switch self {
        case .starting(let giveUp): giveUp?.cancel()
        case .intercepting: break
        case .takenOver(let holder): ending.newHolder = holder
        case .ending, .over: return false
        }
        self = .ending(ending)
        return true
    }
}
