import InterceptModel
import InterceptProtocol
import Logging
import NIOCore

/// What the workspace asks for by `start`, `mirror` and `stop`, and how it ends.
extension WorkspaceLink {
    /// - Parameter label: empty: the workspace gives no name.
    func hold(_ holding: Holding, as label: String, takesOver: Bool) {
        let generation = holding.generation
        guard !self.isStopping else {
            return self.fail(generation, .internal, "what this workspace holds is being stopped")
        }
        if let failure = self.refusal(of: holding.ports, generation: generation) { return self.send(.failed(failure)) }
        if holding.refuses, !self.agent.configuration.allowsRefuse {
            let reason = "this sidecar refuses no clients: it was started without --allow-refuse"
            return self.fail(generation, .unsupported, reason)
        }
        let name = label.isEmpty ? self.name : label
        let ports = Set(holding.ports)
        if var failure = self.agent.takenElsewhere(ports)
            ?? self.agent.makeRoom(for: self.key, holding.kind, ports, as: name, takesOver: takesOver)
        {
            failure.generation = generation
            return self.send(.failed(failure))
        }
        let wasServed = self.isServed
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
                var failure = SidecarAgent.failure(of: error)
                failure.generation = generation
                self.send(.failed(failure), at: place)
            } else {
                if isInForce { self.started(holding, isNew: !wasServed) }
                self.send(.started(generation: generation), at: place)
            }
        }
    }

    private func started(_ holding: Holding, isNew: Bool) {
        if holding.kind == .intercept { self.heldBefore.formUnion(holding.tcpPorts) }
        self.owesWithdrawn = false
        self.startStatus()
        guard isNew else { return }
        var metadata = self.metadata
        metadata["ports"] = "\(holding.ports.map { "\($0)" }.joined(separator: ","))"
        switch holding.kind {
        case .intercept: self.log.info("intercepting: new connections reach the workspace", metadata: metadata)
        case .mirror: self.log.info("mirroring: the workspace gets copies of new connections", metadata: metadata)
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

    /// The agent removes what it holds from the table; the ports may stay diverted for who takes over.
    func isTakenOver(by other: String) {
        self.settled = nil
        self.heldBefore = []
        self.forgetAllFlows()
        self.send(.withdrawn(holder: other))
        self.log.info("taken over by \(other)", metadata: self.metadata)
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
        let place = self.answers.reserve()
        self.agent.releaseHolder(self.key, isStopped: true) { [weak self] in
            self?.send(.withdrawn(holder: nil), at: place)
        }
        // UDP flows need no drain: a client's next payload goes to the default side.
        self.forgetAllFlows()
        self.copies.giveUp(.shuttingDown)
        self.log.info("withdrawn: the workspace gets no new connections", metadata: self.metadata)
        self.drain = self.agent.eventLoop.assumeIsolated().scheduleTask(in: .seconds(seconds)) { [weak self] in
            self?.drainIsOver()
        }
        self.stopIfDrained()
    }

    private func drainIsOver() {
        for client in self.clients.values { client.abandon(.shuttingDown) }
        self.copies.giveUp(.shuttingDown)
        self.stopIfDrained()
    }

    /// The agent ends: everything that is still open is reset.
    func abandonAll() { self.drainIsOver() }

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
