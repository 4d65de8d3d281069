import Carriers
import Diversion
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import Noise
import Tunnel

/// The sidecar's side of one workspace's connection: what the workspace asked for, and the clients routed to it.
final class WorkspaceLink {
    let key: PublicKey
    let access: ServerConnection
    unowned let agent: SidecarAgent
    let standing: PeerStanding
    /// For events that this workspace causes; rate-limited.
    let log: Logger
    var control = ControlReading()
    var answers = ControlAnswers()
    /// TCP clients that are routed to the workspace, with the service's port of each.
    var clients: [StreamID: (socket: BridgedSocket<ServerConnection>, port: ServicePort)] = [:]

    /// What the workspace asks for; nil: nothing, or no longer.
    var holding: Holding? { self.agent.table[self.key]?.holding }
    /// The number of `start`s and `mirror`s that wait for the kernel's rules, and the table's entry before the first of them, which
    /// is restored if the kernel refuses.
    var waitingStarts = 0
    var settled: HolderTable.Entry?
    /// Whether this workspace gets what clients send to its ports now.
    var isServed: Bool { self.agent.table[self.key]?.isServed ?? false }
    /// The TCP ports of which this workspace had all traffic since its intercept began. The workspace leaves a port out while nothing
    /// listens behind it; when it asks for the port again, connections that clients opened to the original meanwhile aren't ended.
    var heldBefore: Set<UInt16> = []
    /// The sidecar stopped serving the workspace on its own, and hasn't told the workspace yet.
    var owesWithdrawn = false
    private(set) var presence = Presence.live
    /// When the workspace was last heard of, if it isn't heard of now.
    private var lostAt: UTCTime?
    var lastSeen: UTCTime { self.presence == .live ? .now : self.lostAt ?? .now }

    var flows = LinkFlows()
    /// Copies of what TCP clients send to ports that this workspace mirrors, and of UDP payloads too large for a datagram.
    private(set) lazy var copies = MirrorCopies(
        self.access,
        memory: self.agent.copyMemory,
        on: self.agent.eventLoop
    )
    var total: UInt64 = 0
    var passed: UInt64 = 0
    var bytesIn: UInt64 = 0
    var bytesOut: UInt64 = 0
    private var lastStatus: ControlMessage.Status?
    var statusTimer: Scheduled<Void>?
    var drain: Scheduled<Void>?
    var isStopping = false
    private var probe: Probe?

    init(_ access: ServerConnection, agent: SidecarAgent) {
        self.key = access.key
        self.standing = agent.standing(of: access.key)
        self.log = agent.log.limited(by: self.standing.log)
        self.access = access
        self.agent = agent
    }

    /// The workspace's name as others see it. It is kept after the holding's end, for the log.
    lazy var name = self.agent.accepted(self.key)?.name ?? self.key.abbreviated

    @discardableResult
    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? { self.access.withConnection(body) }

    /// As far as the sidecar knows, data for the workspace reaches it now.
    var isReachable: Bool { self.presence == .live && (self.withConnection { $0.hasCarrier } ?? false) }

    /// The way to the workspace leads through other programs and is silent, as when one of them has died: what is new reaches the
    /// original meanwhile, and waits where that may not answer. What is under way goes on once the workspace is heard of again.
    var isSilent: Bool {
        guard self.presence != .live, self.holding?.refuses != true else { return false }
        return self.withConnection { $0.isRelaySilent } ?? false
    }

    // MARK: Events

    func handle(_ event: ConnectionEvent) {
        switch event {
        case .readable(.control): self.readControl()
        case .writable(.control): self.readControl()
        case .streamOpened: break
        // Other streams have owners, which are told these.
        case .readable(let id): self.probe?.streamIsReadable(id)
        case .reset(let id, _): self.probe?.streamWasReset(id)
        case .writable, .stopped: break
        case .datagramsReadable: self.receiveDatagrams()
        case .datagramAcknowledged(let id): self.datagramWasAcknowledged(id)
        case .urgentLeftOut:
            self.log.notice(
                "a client's urgent data is left out: the workspace's kl is too old for it; update it there",
                metadata: self.metadata
            )
        case .presence(let presence): self.presenceChanged(to: presence)
        case .ended(let end): self.ended(end)
        }
    }

    func countFlow() { self.total += 1 }

    /// There is a new carrier after the old one was lost: the workspace is now told if its intercept was withdrawn meanwhile.
    func resumed() {
        self.tellIfReachable()
        guard self.owesWithdrawn else { return }
        self.owesWithdrawn = false
        self.send(.withdrawn(holder: nil))
    }

    private func tellIfReachable() {
        guard self.isReachable else { return }
        for client in self.clients.values { client.socket.peerIsBack() }
    }

    private func presenceChanged(to presence: Presence) {
        if self.presence == .live { self.lostAt = .now }
        self.presence = presence
        self.tellIfReachable()
        if presence == .suspected, self.isSilent {
            self.log.info("the way to the workspace is silent", metadata: self.metadata)
            for client in self.clients.values { client.socket.wayIsSilent() }
        }
        guard presence == .gone else { return }
        if let holding = self.holding, self.isServed {
            let instead =
                holding.kind == .mirror
                ? "it gets no copies" : "new connections \(holding.refuses ? "are refused" : "reach the original")"
            self.log.warning("workspace is gone: \(instead)", metadata: self.metadata)
            self.withdraw()
            self.owesWithdrawn = true
        }
        for client in self.clients.values { client.socket.peerIsGone() }
        self.copies.areBehind()
    }

    private func ended(_ end: ConnectionEnd) {
        self.statusTimer?.cancel()
        self.drain?.cancel()
        self.probe?.cancel()
        self.probe = nil
        self.control.pause?.cancel()
        self.flows.pause?.cancel()
        if self.isServed { self.withdraw() }
        self.copies.close()
        self.access.owners.endAll()
        self.clients.removeAll()
        self.forgetAllFlows()
        var metadata = self.metadata
        metadata["code"] = "\(end.code)"
        metadata["reason"] = "\(end.reason.printable)"
        self.log.info("workspace's connection ended (\(Self.describe(end)))", metadata: metadata)
        if let entry = self.agent.table[self.key] {
            self.agent.audit(.stop, self.key, "lost", entry.kind, entry.reserved)
        }
        self.agent.releaseHolder(self.key, isStopped: self.isStopping)
    }

    private static func describe(_ end: ConnectionEnd) -> String {
        switch end.origin {
        case .local: "by this side"
        case .peer: "by the workspace"
        case .lingerOver: "it did not come back"
        case .forgottenByPeer: "it was forgotten"
        }
    }

    var metadata: Logger.Metadata { ["workspace": "\(self.name)", "key": "\(self.key.abbreviated)"] }

    // MARK: Control

    func send(_ message: ControlMessage) {
        self.answers.append(message)
        self.sayWhatIsReady()
    }

    func send(_ message: ControlMessage, at place: Int) {
        self.answers.fill(place, message)
        self.sayWhatIsReady()
    }

    private func sayWhatIsReady() {
        while let message = self.answers.next() {
            var bytes = ByteBuffer()
            message.encode(into: &bytes)
            self.withConnection { _ = $0.write(bytes, to: .control) }
        }
    }

    func receive(_ message: ControlMessage) {
        switch message {
        case .start(let start):
            self.hold(Holding(start), as: start.workspace, takesOver: start.takeover)
        case .stop: self.stop()
        case .probe(let probe): self.probe(probe)
        case .mirror(let mirror): self.hold(Holding(mirror), as: mirror.workspace, takesOver: false)
        case .unknown(let type, let generation):
            self.fail(generation, .unsupported, "'\(type)' isn't a message that this sidecar knows")
        // Only a sidecar sends these.
        case .started, .failed, .withdrawn, .stopped, .status, .probed:
            self.fail(nil, .unsupported, "that is a sidecar's message")
        }
    }

    func fail(_ generation: UInt64?, _ code: ControlMessage.Failure.Code, _ reason: String) {
        self.send(.failed(.init(generation: generation, code: code, reason: reason)))
    }

    /// One probe at a time: a second one gets no answers.
    private func probe(_ message: ControlMessage.Probe) {
        if let failure = self.refusal(of: message.ports, id: message.id) { return self.send(.failed(failure)) }
        // The earlier probe is answered, but the ends of its streams may still be on their way.
        if let before = self.probe, before.isAnswered { before.leave() }
        guard self.probe == nil else { return self.send(.probed(.init(id: message.id, answers: [:]))) }
        let probe = Probe(message, link: self) { [weak self] answers in
            self?.send(.probed(.init(id: message.id, answers: answers)))
        }
        self.probe = probe
        probe.begin()
    }

    func probeIsOver(_ probe: Probe) { if self.probe === probe { self.probe = nil } }

    // MARK: Status

    /// Sent every second while something changes.
    func startStatus() {
        guard self.statusTimer == nil else { return }
        self.statusTimer = self.agent.eventLoop.assumeIsolated().scheduleTask(in: .seconds(1)) { [weak self] in
            guard let self else { return }
            self.statusTimer = nil
            self.sendStatus()
            if self.holding != nil || self.isStopping { self.startStatus() }
        }
    }

    func sendStatus() {
        guard self.presence == .live, self.withConnection({ $0.hasCarrier && $0.writableBytes(.control) > 0 }) ?? false
        else { return }
        let status = self.status
        guard status != self.lastStatus else { return }
        self.lastStatus = status
        self.send(.status(status))
    }

    var status: ControlMessage.Status {
        var status = ControlMessage.Status(
            open: UInt64(self.openCount),
            total: self.total,
            passed: self.passed,
            bytesIn: self.bytesIn + self.copies.bytes,
            bytesOut: self.bytesOut
        )
        status.behind = self.copies.behind
        for client in self.clients.values {
            status.bytesIn += client.socket.bytesToStream
            status.bytesOut += client.socket.bytesFromStream
        }
        return status
    }
}
