import Carriers
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore

/// Whether the local servers are there, and which ports the sidecar is asked for accordingly.
struct LocalServers {
    /// The service's ports whose local server failed at the last attempt.
    private(set) var missing: Set<ServicePort> = []
    private var news = RareNews()
    var asked: AskedPorts
    /// The next check or list of ports.
    fileprivate var next: (due: NIODeadline, timer: Scheduled<Void>)?

    init(_ asked: AskedPorts) { self.asked = asked }

    /// - Returns: whether the port wasn't missing before, and whether to log it.
    fileprivate mutating func failed(
        _ port: ServicePort,
        isRefusal: Bool,
        at now: NIODeadline
    ) -> (isNew: Bool, mayTell: Bool) {
        if isRefusal { self.asked.refused(port, at: now) } else { self.asked.failed(port, at: now) }
        return (self.missing.insert(port).inserted, self.news.mayTellItCame(at: now))
    }

    /// - Returns: whether the port was missing, whether its watch has ended, and whether to log it.
    fileprivate mutating func answered(
        _ port: ServicePort
    ) -> (wasMissing: Bool, wasWatched: Bool, mayTell: Bool) {
        (self.missing.remove(port) != nil, self.asked.answered(port), self.news.mayTellItWent())
    }

    /// The developer asks for another list. Ports with a new target haven't been tried yet.
    ///
    /// - Parameter kept: those whose target is the same.
    mutating func changed(_ configuration: WorkspaceAgent.Configuration, kept: [ServicePort]) {
        self.missing.formIntersection(kept)
        self.asked = configuration.askedPorts(doubted: self.asked.refusing.intersection(kept))
    }
}

extension WorkspaceAgent {
    /// A connection to the port's server failed, or a datagram was refused.
    func localServerFailed(_ port: ServicePort, _ error: any Error) {
        let (isNew, mayTell) = self.servers.failed(port, isRefusal: SocketError.isRefusal(error), at: .now())
        self.lookAtServersInTime()
        if isNew { self.tell(.changed) }
        guard mayTell else { return }
        let target = self.configuration.targets.mappings.first { $0.port == port }?.target
        self.peerLog.warning(
            "the local server can't be reached: until it can, \(self.whatHappens)",
            metadata: ["target": "\(target.map { "\($0)" } ?? "?")", "error": "\(SocketError.describe(error))"]
        )
    }

    private var whatHappens: Logger.Message {
        switch (self.configuration.kind, self.configuration.onUnavailable) {
        case (.mirror, _): "nothing is copied"
        case (.intercept, .refuse): "clients are refused"
        case (.intercept, .original): "the original answers"
        }
    }

    /// The port's server accepted a connection, sent a datagram, or was found listening.
    func localServerAnswered(_ port: ServicePort) {
        let (wasMissing, wasWatched, mayTell) = self.servers.answered(port)
        if wasWatched { self.lookAtServersInTime() }
        if wasMissing { self.tell(.changed) }
        if mayTell { self.peerLog.info("the local server answers now") }
    }

    // MARK: Checking

    /// Schedules the next check or list of ports.
    func lookAtServersInTime() {
        guard !self.isOver, let due = self.servers.asked.nextDeadline(mayAsk: self.mayAskForOthers) else {
            return self.endServerLooks()
        }
        if let look = self.servers.next {
            guard due != look.due else { return }
            look.timer.cancel()
        }
        let timer = self.eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] () -> Void in
            self?.lookAtServers()
        }
        self.servers.next = (due, timer)
    }

    func endServerLooks() {
        self.servers.next?.timer.cancel()
        self.servers.next = nil
    }

    private func lookAtServers() {
        self.servers.next = nil
        let now = NIODeadline.now()
        let looks = self.servers.asked.looksDue(at: now)
        if !looks.isEmpty {
            let listeners = LocalListeners()
            for look in looks { self.follow(look, self.finding(look, listeners), at: now) }
        }
        if self.mayAskForOthers, let ports = self.servers.asked.listDue(at: now) { self.ask(for: ports) }
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
        case .refuses where !look.byConnecting: self.servers.asked.saw(.refuses, at: look.port, now)
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
                self.servers.asked.saw(SocketError.isRefusal(error) ? .refuses : .unknown, at: port, .now())
                self.lookAtServersInTime()
            }
        }
    }

    // MARK: Asking

    /// The sidecar has answered the last list on this connection, and no other workspace has taken the service over.
    private var mayAskForOthers: Bool { if case .intercepting = self.life { self.lists.mayAskOwn } else { false } }

    private func ask(for ports: [ServicePort]) {
        let left = self.configuration.targets.ports.filter { !ports.contains($0) }
        // At debug level: missing servers are logged elsewhere, and less often.
        self.log.debug(
            "asking for the ports that are served here",
            metadata: ["left_to_original": "\(left.map { "\($0)" }.joined(separator: ","))"]
        )
        self.lists.askedOwn()
        self.sendStart()
    }

    /// The previous list is still in force.
    func ownListWasRefused(_ failure: ControlMessage.Failure) {
        self.peerLog.warning("the sidecar refuses another list of ports: \(failure.reason)")
        self.servers.asked.wasRefused(at: .now())
        self.lookAtServersInTime()
    }
}

extension WorkspaceAgent.Configuration {
    func askedPorts(doubted: Set<ServicePort>) -> AskedPorts {
        AskedPorts(
            self.targets.ports,
            leavesToOriginal: self.kind == .mirror || self.onUnavailable == .original,
            doubted: doubted,
            at: .now()
        )
    }
}
