import Carriers
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore

/// Tracks whether the local servers are there, and which ports the sidecar is asked for accordingly.
extension WorkspaceAgent {
    /// A connection to the port's server failed, or a datagram was refused.
    func localServerFailed(_ port: ServicePort, _ error: any Error) {
        let isNew = self.missingServers.insert(port).inserted
        let now = NIODeadline.now()
        if Failure.isRefusal(error) {
            self.askedPorts.refused(port, at: now)
        } else {
            self.askedPorts.failed(port, at: now)
        }
        self.lookAtServersInTime()
        if isNew { self.tell(.changed) }
        guard self.missingServersNews.mayTellItCame(at: now) else { return }
        let target = self.configuration.targets.mappings.first { $0.port == port }?.target
        self.peerLog.warning(
            "the local server can't be reached: until it can, \(self.whatClientsGet)",
            metadata: ["target": "\(target.map { "\($0)" } ?? "?")", "error": "\(Failure.describe(error))"]
        )
    }

    private var whatClientsGet: Logger.Message {
        self.configuration.onUnavailable == .refuse ? "clients are refused" : "the original answers"
    }

    /// The port's server accepted a connection, sent a datagram, or was found listening.
    func localServerAnswered(_ port: ServicePort) {
        if self.askedPorts.answered(port) { self.lookAtServersInTime() }
        if self.missingServers.remove(port) != nil { self.tell(.changed) }
        if self.missingServersNews.mayTellItWent() { self.peerLog.info("the local server answers now") }
    }

    // MARK: Checking

    /// Schedules the next check or list of ports.
    func lookAtServersInTime() {
        guard !self.isOver, let due = self.askedPorts.nextDeadline(mayAsk: self.mayAskForOthers) else {
            return self.endServerLooks()
        }
        if let look = self.serverLook {
            guard due != look.due else { return }
            look.timer.cancel()
        }
        let timer = self.eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] () -> Void in
            self?.lookAtServers()
        }
        self.serverLook = (due, timer)
    }

    func endServerLooks() {
        self.serverLook?.timer.cancel()
        self.serverLook = nil
    }

    private func lookAtServers() {
        self.serverLook = nil
        let now = NIODeadline.now()
        let looks = self.askedPorts.looksDue(at: now)
        if !looks.isEmpty {
            let listeners = LocalListeners()
            for look in looks { self.follow(look, self.finding(look, listeners), at: now) }
        }
        if self.mayAskForOthers, let ports = self.askedPorts.listDue(at: now) { self.ask(for: ports) }
        self.lookAtServersInTime()
    }

    private func finding(_ look: AskedPorts.Look, _ listeners: borrowing LocalListeners) -> AskedPorts.Finding {
        guard look.atSockets, let target = self.configuration.targets[look.port] else { return .unknown }
        var isSeen = true
        for address in target.addresses {
            switch listeners.has(address) {
            case true?: return .listens
            case false?: break
            case nil: isSeen = false
            }
        }
        return isSeen ? .refuses : .unknown
    }

    private func follow(_ look: AskedPorts.Look, _ finding: AskedPorts.Finding, at now: NIODeadline) {
        switch finding {
        case .listens: self.localServerAnswered(look.port)
        case .refuses where !look.byConnecting: self.askedPorts.saw(.refuses, at: look.port, now)
        case .unknown where !look.byConnecting: break
        case .refuses, .unknown: self.connect(look.port)
        }
    }

    /// The timeout is the shortest time until the next test connection.
    private func connect(_ port: ServicePort) {
        guard let target = self.configuration.targets[port] else { return }
        let mappings = self.configuration.targets.mappings
        target.connect(on: self.eventLoop, timeout: AskedPorts.firstPause).assumeIsolated().whenComplete {
            [weak self] result in
            if case .success(let channel) = result { channel.closeProperly() }
            // The port may have another target by now.
            guard let self, !self.isOver, self.configuration.targets.mappings == mappings else { return }
            switch result {
            case .success: self.localServerAnswered(port)
            case .failure(let error):
                self.askedPorts.saw(Failure.isRefusal(error) ? .refuses : .unknown, at: port, .now())
                self.lookAtServersInTime()
            }
        }
    }

    // MARK: Asking

    /// The sidecar has answered the last list on this connection, and no other workspace has taken the service over.
    private var mayAskForOthers: Bool {
        self.acknowledged != nil && self.acknowledged == self.configuration.generation && !self.awaitsOwnList
            && self.newHolder == nil && !self.isEnding && !self.isOver
    }

    private func ask(for ports: [ServicePort]) {
        let left = self.configuration.targets.ports.filter { !ports.contains($0) }
        // At debug level: missing servers are logged elsewhere, and less often.
        self.log.debug(
            "asking for the ports that are served here",
            metadata: ["left_to_original": "\(left.map { "\($0)" }.joined(separator: ","))"]
        )
        self.sentGeneration += 1
        self.awaitsOwnList = true
        self.sendStart()
    }

    /// The previous list is still in force.
    func ownListWasRefused(_ failure: ControlMessage.Failure) {
        self.peerLog.warning("the sidecar refuses another list of ports: \(failure.reason)")
        self.awaitsOwnList = false
        self.askedPorts.wasRefused(at: .now())
        self.sentGeneration += 1
        self.lookAtServersInTime()
    }
}

extension WorkspaceAgent.Configuration {
    func askedPorts(doubted: Set<ServicePort>) -> AskedPorts {
        AskedPorts(
            self.targets.ports,
            leavesToOriginal: self.onUnavailable == .original,
            doubted: doubted,
            at: .now()
        )
    }
}
