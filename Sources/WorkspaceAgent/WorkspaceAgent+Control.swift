import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// Messages on the control stream, stream 0.
extension WorkspaceAgent {
    func begin() {
        // A pending pause stays: reconnecting gives the sidecar no extra turn.
        self.control.decoder = ControlMessageDecoder()
        let stream = self.client?.withConnection { $0.openStream() } ?? nil
        guard stream == .control else {
            return self.fail(.noControlStream)
        }
        self.sendStart()
    }

    func sayStart() {
        guard !self.isEnding else { return self.sendStop() }
        guard !self.configuration.onlyReleases else { return self.shutDownAfterCrash() }
        guard self.configuration.kind == .intercept else { return self.send(.mirror(self.mirror)) }
        var start = ControlMessage.Start(
            generation: self.lists.generation,
            workspace: self.configuration.label,
            ports: self.servers.asked.asked
        )
        start.absent = self.servers.asked.absent
        start.onUnavailable = self.configuration.onUnavailable
        start.probes = self.configuration.probes
        start.proxyProtocol = self.configuration.proxyProtocol
        start.drainSeconds = self.configuration.drainSeconds
        start.takeover = self.configuration.takesOver
        self.send(.start(start))
    }

    private var mirror: ControlMessage.Mirror {
        var mirror = ControlMessage.Mirror(
            generation: self.lists.generation,
            workspace: self.configuration.label,
            ports: self.servers.asked.asked
        )
        mirror.probes = self.configuration.probes
        mirror.proxyProtocol = self.configuration.proxyProtocol
        return mirror
    }

    func send(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        _ = self.client?.withConnection { $0.write(bytes, to: .control) }
    }

    /// Handles a limited number of messages in each turn of the loop, so that one sidecar can't delay other tunnels.
    func readControl() {
        guard self.control.pause == nil else { return }
        var turn = Turn()
        do throws(ControlError) {
            while let next = try self.nextControl() {
                if case .message(let message) = next { self.receive(message) }
                guard turn.isOverAfterMuch() else { continue }
                self.control.pause = self.eventLoop.inNextTurn { [weak self] in
                    self?.control.pause = nil
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
            let next = try self.control.decoder.next()
            guard case .needsMore = next else { return next }
            guard
                case .bytes(let bytes) = self.client?.withConnection({ $0.read(.control, atMost: Self.controlAtOnce) })
            else { return nil }
            self.control.decoder.append(bytes)
        }
        return nil
    }

    private static var controlAtOnce: Int { 16 * 1_024 }

    private func receive(_ message: ControlMessage) {
        switch message {
        case .started(let generation): self.started(generation)
        case .failed(let failure): self.refusedBySidecar(failure)
        case .withdrawn(let holder?): self.takenOver(by: holder)
        case .withdrawn(nil): self.withdrawn()
        case .stopped(let total, let passed): self.stopped(total: total, passed: passed)
        case .status(let status):
            self.counters.received(status)
            self.tell(.changed)
        case .probed(let probed): if self.probing.isCurrent(probed.id) { self.endProbe(.answered(probed.answers)) }
        case .start, .mirror, .stop, .probe, .unknown: break
        }
    }

    private func started(_ generation: UInt64) {
        let wanted = self.configuration.generation
        guard !self.isEnding, self.lists.started(generation, wanted: wanted) else { return }
        self.forgetOwed()
        // Take over only once: if another workspace takes the ports back, only a person's request takes them again.
        self.configuration.takesOver = false
        self.isInForce()
        self.lookAtServersInTime()
        self.tell(.started(generation: wanted))
    }

    /// The sidecar had lost this workspace; it diverts again once it is asked to.
    private func withdrawn() {
        switch self.life {
        case .ending: self.tell(.withdrawn)
        case .takenOver: break
        case .starting, .intercepting, .over:
            self.lists.wereLost()
            self.tell(.changed)
            self.startIsWanted()
        }
    }

    private func refusedBySidecar(_ failure: ControlMessage.Failure) {
        if let id = self.probing.current {
            if failure.id == id { return self.endProbe(.failed(failure.reason)) }
            if failure.id == nil, failure.generation == nil, failure.code == .unsupported {
                return self.endProbe(.unsupported)
            }
        }
        // The failure is for a probe that has ended, or for an earlier list of ports.
        guard failure.id == nil, !self.lists.isOutdated(failure.generation) else { return }
        let wanted = self.configuration.generation
        switch (self.lists.refused(failure.generation, wanted: wanted), failure.code) {
        case (.later, _):
            self.configuration.takesOver = false
            self.tell(.refused(generation: wanted, failure))
        case (_, .busy):
            let isTakeoverDenied = self.configuration.takesOver
            self.fail(.busy(holder: failure.holder, since: failure.since, isTakeoverDenied: isTakeoverDenied))
        case (.own, _): self.ownListWasRefused(failure)
        case (.first, _):
            // An earlier version's words. A sidecar that can copy may have other reasons.
            let isUnknown =
                self.configuration.kind == .mirror && failure.code == .unsupported
                && failure.reason.hasPrefix("'mirror' isn't a message")
            self.fail(isUnknown ? .cannotCopy(reason: failure.reason) : .refused(reason: failure.reason))
        }
    }
}
