import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// Messages on the control stream, stream 0.
extension WorkspaceAgent {
    func begin() {
        // A pending pause stays: reconnecting gives the sidecar no extra turn.
        self.decoder = ControlMessageDecoder()
        let stream = self.client?.withConnection { $0.openStream() } ?? nil
        guard stream == .control else {
            return self.fail("The sidecar allows no control stream: it isn't one of ours.")
        }
        self.sendStart()
    }

    func sayStart() {
        guard !self.isEnding else { return self.sendStop() }
        guard !self.configuration.onlyReleases else { return self.shutDownAfterCrash() }
        var start = ControlMessage.Start(
            generation: self.sentGeneration,
            workspace: self.configuration.label,
            ports: self.askedPorts.asked
        )
        start.onUnavailable = self.configuration.onUnavailable
        start.probes = self.configuration.probes
        start.proxyProtocol = self.configuration.proxyProtocol
        start.drainSeconds = self.configuration.drainSeconds
        // Only in the first `start`: a service that another workspace took back isn't taken again unless a person asks.
        start.takeover = self.configuration.takesOver && !self.isStarted
        self.send(.start(start))
    }

    func send(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        _ = self.client?.withConnection { $0.write(bytes, to: .control) }
    }

    /// Handles a limited number of messages in each turn of the loop, so that one sidecar can't delay other tunnels.
    func readControl() {
        guard self.controlPause == nil else { return }
        var turn = Turn()
        do throws(ControlError) {
            while let next = try self.nextControl() {
                if case .message(let message) = next { self.receive(message) }
                guard turn.isOverAfterMuch() else { continue }
                self.controlPause = self.eventLoop.inNextTurn { [weak self] in
                    self?.controlPause = nil
                    self?.readControl()
                }
                return
            }
        } catch {
            self.peerLog.error("closing the connection: \(error)")
            self.client?.endConnection(.controlError)
        }
    }

    /// nil if there is no message now.
    private func nextControl() throws(ControlError) -> ControlMessageDecoder.Next? {
        while self.client?.withConnection({ $0.isActive }) ?? false, !self.isOver {
            let next = try self.decoder.next()
            guard case .needsMore = next else { return next }
            guard
                case .bytes(let bytes) = self.client?.withConnection({ $0.read(.control, atMost: Self.controlAtOnce) })
            else { return nil }
            self.decoder.append(bytes)
        }
        return nil
    }

    private static var controlAtOnce: Int { 16 * 1_024 }

    private func receive(_ message: ControlMessage) {
        switch message {
        case .started(let generation): self.started(generation)
        case .failed(let failure): self.refusedBySidecar(failure)
        case .withdrawn(let holder?): self.takenOver(by: holder)
        case .withdrawn(nil) where self.isEnding: self.tell(.withdrawn)
        case .withdrawn(nil) where self.newHolder != nil: break
        case .withdrawn(nil):
            // The sidecar had lost this workspace; it diverts again once it is asked to.
            self.acknowledged = nil
            self.tell(.changed)
            self.startIsWanted()
        case .stopped(let total, let passed): self.stopped(total: total, passed: passed)
        case .status(let status):
            self.counts.open = status.open
            self.counts.total = status.total
            self.counts.passed = status.passed
            self.counts.bytesIn = status.bytesIn
            self.counts.bytesOut = status.bytesOut
            self.tell(.changed)
        case .probed(let probed): if self.pendingProbe?.id == probed.id { self.endProbe(.answered(probed.answers)) }
        case .start, .stop, .probe, .unknown: break
        }
    }

    private func started(_ generation: UInt64) {
        // An answer to an earlier list says nothing about the latest.
        guard generation == self.sentGeneration, !self.isEnding else { return }
        let generation = self.configuration.generation
        self.awaitsOwnList = false
        self.acknowledged = generation
        self.lastAcknowledged = generation
        self.lookAtServersInTime()
        self.forgetOwed()
        if !self.isStarted {
            self.isStarted = true
            let roundTrip = self.client?.withConnection { $0.measuredRoundTripTime } ?? nil
            let address = self.client?.address
            self.log.info(
                "intercepting",
                metadata: ["sidecar": "\(address.map { "\($0)" } ?? "-")", "carrier": "\(address?.carrier ?? "")"]
            )
            self.startedFirst(roundTrip)
        }
        self.tell(.started(generation: generation))
    }

    /// Nothing can drain: the open connections were lost when the earlier program crashed.
    private func shutDownAfterCrash() {
        self.isEnding = true
        self.sendStop()
    }

    private func refusedBySidecar(_ failure: ControlMessage.Failure) {
        if let probe = self.pendingProbe {
            if failure.id == probe.id { return self.endProbe(.failed(failure.reason)) }
            if failure.id == nil, failure.generation == nil, failure.code == .unsupported {
                return self.endProbe(.unsupported)
            }
        }
        // The failure is for a probe that has ended, or for an earlier list of ports.
        guard failure.id == nil, failure.generation.map({ $0 == self.sentGeneration }) ?? true else { return }
        if failure.generation != nil, failure.code != .busy {
            if self.awaitsOwnList { return self.ownListWasRefused(failure) }
            let generation = self.configuration.generation
            if let before = self.lastAcknowledged, before != generation {
                return self.tell(.refused(generation: generation, failure))
            }
        }
        switch failure.code {
        case .busy:
            self.holder = (failure.holder ?? "someone else", failure.since)
            let since = failure.since.map { " since \($0)" } ?? ""
            let who = failure.holder ?? "someone else"
            // A takeover was asked for and not granted.
            let isDenied = self.configuration.takesOver && !self.isStarted
            let way =
                isDenied
                ? "Ask them to stop it: this sidecar was started without --allow-takeover."
                : "Ask them to stop it, or take it over with --takeover."
            self.fail("The service is intercepted by \(who)\(since). \(way)", isBusy: true)
        case .port, .unsupported, .internal: self.fail("The sidecar refused: \(failure.reason).")
        }
    }

    private func takenOver(by holder: String) {
        self.peerLog.warning(
            "taken over by \(holder): open connections go on",
            metadata: ["open": "\(self.connections.count)"]
        )
        self.newHolder = holder
        self.acknowledged = nil
        self.tell(.takenOver(by: holder))
        self.failIfTakenOver()
    }

    /// Connections that were open at the takeover may finish. Once none is left, the agent ends.
    func failIfTakenOver() {
        guard let newHolder = self.newHolder, self.connections.isEmpty, !self.isOver else { return }
        self.fail("The intercept was taken over by \(newHolder).", isBusy: true)
    }
}

/// Probes: whether connections come through the tunnel to the local servers.
extension WorkspaceAgent {
    struct PendingProbe {
        var id: UInt64
        var onResult: (ProbeResult) -> Void
        var timeout: Scheduled<Void>
    }

    /// The sidecar answers within 8 s.
    private static var probeWithin: TimeAmount { .seconds(12) }

    /// Has the sidecar open a test connection to each port. One probe at a time: an earlier one ends as failed.
    public func probe(_ onResult: @escaping (ProbeResult) -> Void) {
        self.endProbe(.failed("another probe was begun"))
        self.lastProbe += 1
        let id = self.lastProbe
        guard self.hasRoomToSay else { return onResult(.failed("the sidecar doesn't read what it is told")) }
        let timeout = self.eventLoop.assumeIsolated().scheduleTask(in: Self.probeWithin) { [weak self] () -> Void in
            self?.endProbe(.failed("the sidecar doesn't answer"))
        }
        self.pendingProbe = PendingProbe(id: id, onResult: onResult, timeout: timeout)
        self.send(.probe(.init(id: id, ports: self.configuration.targets.ports)))
    }

    func endProbe(_ result: ProbeResult) {
        guard let probe = self.pendingProbe else { return }
        self.pendingProbe = nil
        probe.timeout.cancel()
        probe.onResult(result)
    }
}
