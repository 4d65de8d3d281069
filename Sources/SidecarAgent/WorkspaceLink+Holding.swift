import InterceptModel
import InterceptProtocol
import Logging
import NIOCore

/// What the workspace asks for by `start`, `mirror` and `stop`, and how its holding ends.
extension WorkspaceLink {
    /// - Parameter label: the workspace's own name for itself; empty: it gives none.
    func hold(_ holding: Holding, as label: String, takesOver: Bool) {
        let generation = holding.generation
        guard !self.isStopping else {
            return self.fail(generation, .internal, "what this workspace holds is being stopped")
        }
        guard self.agent.goingOn?.keys.contains(self.key) ?? true else {
            return self.fail(generation, .internal, "this sidecar is ending")
        }
        let ports = Set(holding.claimed)
        if let failure = self.refusal(of: holding.claimed, generation: generation) {
            return self.refuse(holding, failure)
        }
        if let denial = self.agent.denial(of: self.key, holding.kind, ports, refuses: holding.refuses) {
            return self.refuse(holding, denial)
        }
        if holding.refuses, !self.agent.configuration.allowsRefuse {
            let reason = "this sidecar refuses no clients: it was started without --allow-refuse"
            return self.refuse(holding, .init(generation: generation, code: .unsupported, reason: reason))
        }
        let name = self.agent.accepted(self.key)?.label ?? (label.isEmpty ? self.name : label)
        if let failure = self.agent.takenElsewhere(Set(holding.ports))
            ?? self.agent.makeRoom(for: self.key, holding.kind, ports, as: name, takesOver: takesOver)
        {
            return self.refuse(holding, failure)
        }
        let isNew = !self.isServed || self.holding?.ports != holding.ports
        if self.waitingStarts == 0 { self.settled = self.agent.table[self.key] }
        self.waitingStarts += 1
        self.name = name
        let place = self.answers.reserve()
        self.agent.hold(self, holding, besides: self.heldBefore) { [weak self] error in
            guard let self else { return }
            self.waitingStarts -= 1
            let isInForce = self.holding == holding
            if let error {
                if isInForce { self.settle() }
                self.send(.failed(self.refused(holding, SidecarAgent.failure(of: error))), at: place)
            } else {
                if isInForce { self.started(holding, isNew: isNew) }
                self.send(.started(generation: generation), at: place)
            }
        }
    }

    private func refuse(_ holding: Holding, _ failure: ControlMessage.Failure) {
        self.send(.failed(self.refused(holding, failure)))
    }

    /// Counts the refusal, and has it in the audit.
    ///
    /// - Returns: what the workspace is told.
    private func refused(_ holding: Holding, _ failure: ControlMessage.Failure) -> ControlMessage.Failure {
        var failure = failure
        failure.generation = holding.generation
        self.agent.refusedTotal[failure.code.rawValue, default: 0] += 1
        self.agent.audit(.refusal, self.key, failure.code.rawValue, holding.kind, Set(holding.ports), failure.reason)
        return failure
    }

    private func started(_ holding: Holding, isNew: Bool) {
        if holding.kind == .intercept { self.heldBefore.formUnion(holding.tcpPorts) }
        self.owesWithdrawn = false
        self.startStatus()
        guard isNew else { return }
        let isAbsent = holding.ports.isEmpty
        let ports = isAbsent ? holding.claimed : holding.ports
        self.agent.audit(.start, self.key, isAbsent ? "absent" : "started", holding.kind, Set(ports))
        var metadata = self.metadata
        if !ports.isEmpty { metadata["ports"] = "\(SidecarAgent.brief(ports))" }
        self.log.info(Self.beginning(of: holding), metadata: metadata)
    }

    private static func beginning(of holding: Holding) -> Logger.Message {
        switch (holding.kind, holding.ports.isEmpty) {
        case (.intercept, false): "intercepting: new connections reach the workspace"
        case (.mirror, false): "mirroring: the workspace gets copies of new connections"
        case (.intercept, true): "nothing listens at the workspace: new connections reach the original"
        case (.mirror, true): "nothing listens at the workspace: it gets no copies"
        }
    }

    /// The kernel refused: the previous state is restored.
    private func settle() {
        self.agent.table.restore(self.settled, of: self.key)
        if self.settled == nil { self.agent.diversionMayHaveChanged() }
    }

    /// Why the sidecar refuses these ports; nil if it doesn't.
    func refusal(
        of ports: [ServicePort],
        generation: UInt64? = nil,
        id: UInt64? = nil
    ) -> ControlMessage.Failure? {
        for port in ports {
            if port.transport == .udp, !(self.withConnection { $0.takesDatagrams } ?? false) {
                let reason = "the workspace takes no datagrams, and port \(port) needs them"
                return .init(generation: generation, code: .unsupported, reason: reason, id: id)
            }
            if !self.agent.serves(port) {
                var failure = self.agent.notServed(port)
                (failure.generation, failure.id) = (generation, id)
                return failure
            }
        }
        return nil
    }

    /// Another workspace takes the ports over. The agent has removed this holding from the table; the ports may stay diverted,
    /// for that workspace.
    func isTakenOver(by other: String) {
        self.settled = nil
        self.heldBefore = []
        self.forgetAllFlows()
        self.send(.withdrawn(holder: other))
        self.log.info("taken over by \(other)", metadata: self.metadata)
    }

    /// A right was taken back, and the agent has removed what it allowed. The workspace asks for its ports again, and is told why it
    /// doesn't get them.
    func isDenied() {
        self.settled = nil
        self.heldBefore = []
        self.endStreams()
        self.send(.withdrawn(holder: nil))
    }

    /// Ends the clients, flows and copies that go through the tunnel now.
    func endStreams() {
        self.forgetAllFlows()
        for client in self.clients.values { client.socket.abandon(.shuttingDown) }
        self.copies.giveUp(.shuttingDown)
        self.stopIfDrained()
    }

    /// The same for what the key has no right to any more. It may be of an earlier holding, which had other ports or was of the other
    /// kind.
    ///
    /// - Returns: the ports whose clients, flows and copies it ended.
    func endStreams(without grant: Grant) -> [HoldingKind: Set<ServicePort>] {
        var ended: [HoldingKind: Set<ServicePort>] = [:]
        func isOver(_ kind: HoldingKind, _ port: ServicePort) -> Bool {
            guard !grant.allows(kind, port) else { return false }
            ended[kind, default: []].insert(port)
            return true
        }
        let served = self.clients.values.filter { isOver(.intercept, $0.port) }
        for client in served { client.socket.abandon(.shuttingDown) }
        self.forgetFlows(where: isOver)
        self.copies.giveUp(.shuttingDown) { isOver(.mirror, $0) }
        self.stopIfDrained()
        return ended
    }

    /// The default side without this workspace gets what new clients send. A workspace that is gone still holds its ports until its
    /// connection ends.
    func withdraw() {
        self.agent.table.isNoLongerServed(self.key)
        self.agent.diversionMayHaveChanged()
    }

    func stop() {
        guard !self.isStopping else { return }
        self.isStopping = true
        self.settled = nil
        let seconds = Int64(self.holding?.drainSeconds ?? 0)
        let entry = self.agent.table[self.key]
        if let entry { self.agent.audit(.stop, self.key, "stopped", entry.kind, entry.reserved) }
        let place = self.answers.reserve()
        self.agent.releaseHolder(self.key, isStopped: true) { [weak self] in
            self?.send(.withdrawn(holder: nil), at: place)
        }
        // UDP flows need no drain: a client's next payload goes to the default side.
        self.forgetAllFlows()
        self.copies.giveUp(.shuttingDown)
        let what = entry?.kind == .mirror ? "copies" : "connections"
        self.log.info("withdrawn: the workspace gets no new \(what)", metadata: self.metadata)
        self.drain = self.agent.eventLoop.assumeIsolated().scheduleTask(in: .seconds(seconds)) { [weak self] in
            self?.endStreams()
        }
        self.stopIfDrained()
    }

    /// The agent ends: everything that is still open is reset.
    func abandonAll() { self.endStreams() }

    func stopIfDrained() {
        guard self.isStopping, self.clients.isEmpty, self.drain != nil else { return }
        self.drain?.cancel()
        self.drain = nil
        self.sendStatus()
        self.send(.stopped(total: self.total, passed: self.passed))
        self.statusTimer?.cancel()
        self.statusTimer = nil
        self.heldBefore = []
        self.isStopping = false
    }
}
