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
    /// TCP clients that are routed to the workspace.
    private var clients: [StreamID: BridgedSocket<ServerConnection>] = [:]

    /// The intercept in force, or the last one in force before the workspace was lost.
    private(set) var intercept: ControlMessage.Start?
    private(set) var since: UTCTime?
    /// The number of `start`s that wait for the kernel's rules, and the state before the first of them, which is restored
    /// if the kernel refuses.
    private var waitingStarts = 0
    private var settled: (intercept: ControlMessage.Start?, isDiverting: Bool) = (nil, false)
    /// Whether the ports are diverted to this workspace now.
    private(set) var isDiverting = false { didSet { self.agent.interceptMayHaveChanged() } }
    /// The ports whose new connections the kernel should redirect to the sidecar, including those where clients are to be
    /// refused.
    var divertedPorts: DivertedPorts {
        guard let intercept = self.intercept, self.isDiverting || intercept.onUnavailable == .refuse else {
            return DivertedPorts()
        }
        return DivertedPorts(intercept.ports)
    }
    /// The TCP ports diverted to this workspace since its intercept began. The workspace leaves a port out while nothing listens
    /// behind it; when it asks for the port again, connections that clients opened to the original meanwhile aren't ended.
    private var divertedBefore: Set<UInt16> = []
    /// The sidecar stopped diverting on its own, and hasn't told the workspace yet.
    private var owesWithdrawn = false
    private var presence = Presence.live

    var flows = LinkFlows()
    private(set) var total: UInt64 = 0
    var passed: UInt64 = 0
    var bytesIn: UInt64 = 0
    var bytesOut: UInt64 = 0
    private var lastStatus: ControlMessage.Status?
    private var statusTimer: Scheduled<Void>?
    private var drain: Scheduled<Void>?
    private var isStopping = false
    private var probe: Probe?

    init(_ access: ServerConnection, agent: SidecarAgent) {
        self.key = access.key
        self.standing = agent.standing(of: access.key)
        self.log = agent.log.limited(by: self.standing.log)
        self.access = access
        self.agent = agent
    }

    /// The workspace's name as others see it. It is kept after the intercept's end, for the log.
    private(set) lazy var name = self.key.abbreviated

    @discardableResult
    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? { self.access.withConnection(body) }

    /// As far as the sidecar knows, data for the workspace reaches it now.
    var isReachable: Bool { self.presence == .live && (self.withConnection { $0.hasCarrier } ?? false) }

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
        for client in self.clients.values { client.peerIsBack() }
    }

    private func presenceChanged(to presence: Presence) {
        self.presence = presence
        self.tellIfReachable()
        guard presence == .gone else { return }
        if self.isDiverting {
            let instead = self.intercept?.onUnavailable == .refuse ? "are refused" : "reach the original"
            self.log.warning("workspace is gone: new connections \(instead)", metadata: self.metadata)
            self.withdraw()
            self.owesWithdrawn = true
        }
        for client in self.clients.values { client.peerIsGone() }
    }

    private func ended(_ end: ConnectionEnd) {
        self.statusTimer?.cancel()
        self.drain?.cancel()
        self.probe?.cancel()
        self.probe = nil
        self.control.pause?.cancel()
        self.flows.pause?.cancel()
        if self.isDiverting { self.withdraw() }
        self.access.owners.endAll()
        self.clients.removeAll()
        self.forgetAllFlows()
        var metadata = self.metadata
        metadata["code"] = "\(end.code)"
        metadata["reason"] = "\(end.reason.printable)"
        self.log.info("workspace's connection ended (\(Self.describe(end)))", metadata: metadata)
        self.intercept = nil
        self.agent.releaseHolder(self, isStopped: self.isStopping)
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

    private func send(_ message: ControlMessage, at place: Int) {
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
        case .start(let start): self.start(start)
        case .stop: self.stop()
        case .probe(let probe): self.probe(probe)
        case .mirror(let mirror):
            self.fail(mirror.generation, .unsupported, "'mirror' isn't a message that this sidecar knows")
        case .unknown(let type, let generation):
            self.fail(generation, .unsupported, "'\(type)' isn't a message that this sidecar knows")
        // Only a sidecar sends these.
        case .started, .failed, .withdrawn, .stopped, .status, .probed:
            self.fail(nil, .unsupported, "that is a sidecar's message")
        }
    }

    private func fail(_ generation: UInt64?, _ code: ControlMessage.Failure.Code, _ reason: String) {
        self.send(.failed(.init(generation: generation, code: code, reason: reason)))
    }

    private func start(_ start: ControlMessage.Start) {
        guard !self.isStopping else { return self.fail(start.generation, .internal, "the intercept is being stopped") }
        if let failure = self.refusal(of: start.ports, generation: start.generation) {
            return self.send(.failed(failure))
        }
        if start.onUnavailable == .refuse, !self.agent.configuration.allowsRefuse {
            let reason = "this sidecar refuses no clients: it was started without --allow-refuse"
            return self.fail(start.generation, .unsupported, reason)
        }
        if let holder = self.agent.holder, holder !== self {
            guard start.takeover, self.agent.configuration.allowsTakeover else {
                self.send(
                    .failed(
                        .init(
                            generation: start.generation,
                            code: .busy,
                            reason: "the service is intercepted by \(holder.name)"
                                + (holder.presence == .gone ? ", who can't be reached at the moment" : "")
                                + (start.takeover ? ", and this sidecar was started without --allow-takeover" : ""),
                            holder: holder.name,
                            since: holder.since?.rfc3339
                        )
                    )
                )
                return
            }
            holder.isTakenOver(by: start.workspace.isEmpty ? self.key.abbreviated : start.workspace)
        }
        let (wasDiverting, before) = (self.isDiverting, self.intercept)
        if self.waitingStarts == 0 { self.settled = (before, wasDiverting) }
        self.waitingStarts += 1
        self.intercept = start
        self.isDiverting = true
        if !start.workspace.isEmpty { self.name = start.workspace }
        if self.since == nil { self.since = .now }
        // A workspace that returns takes up what it held before, so connections to the original aren't drained.
        let isFresh = before == nil || wasDiverting
        let place = self.answers.reserve()
        self.agent.hold(self, start, isFresh: isFresh, besides: self.divertedBefore) { [weak self] error in
            guard let self else { return }
            self.waitingStarts -= 1
            let isInForce = self.intercept == start && self.agent.holder === self
            if let error {
                if isInForce { self.settle() }
                let failure = ControlMessage.Failure(
                    generation: start.generation,
                    code: .internal,
                    reason: error.description
                )
                self.send(.failed(failure), at: place)
            } else {
                if isInForce { self.started(isNew: !wasDiverting) }
                self.send(.started(generation: start.generation), at: place)
            }
        }
    }

    private func started(isNew: Bool) {
        self.divertedBefore.formUnion(self.divertedPorts.tcp)
        self.owesWithdrawn = false
        self.startStatus()
        guard isNew else { return }
        var metadata = self.metadata
        metadata["ports"] = "\((self.intercept?.ports ?? []).map { "\($0)" }.joined(separator: ","))"
        self.log.info("intercepting: new connections reach the workspace", metadata: metadata)
    }

    /// The kernel refused: the previous state is restored.
    private func settle() {
        (self.intercept, self.isDiverting) = self.settled
        guard self.intercept == nil else { return }
        self.since = nil
        self.agent.letGo(of: self)
    }

    /// Why the sidecar refuses these ports; nil if it doesn't.
    private func refusal(
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
                let served = self.agent.servicePorts.map { "\($0)" }.joined(separator: ", ")
                let reason = "port \(port) isn't the service's; it has \(served)"
                return .init(generation: generation, code: .port, reason: reason, id: id)
            }
        }
        return nil
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

    private func isTakenOver(by other: String) {
        // The ports may stay diverted: the `start` of the workspace that takes over decides.
        self.isDiverting = false
        self.settled = (nil, false)
        self.intercept = nil
        self.divertedBefore = []
        self.since = nil
        self.forgetAllFlows()
        self.send(.withdrawn(holder: other))
        self.log.info("taken over by \(other)", metadata: self.metadata)
    }

    /// New connections reach the original from now on. A workspace that is gone still holds the service until its
    /// connection ends.
    private func withdraw() {
        self.isDiverting = false
        self.agent.diversionMayHaveChanged()
    }

    private func stop() {
        guard !self.isStopping else { return }
        self.isStopping = true
        self.isDiverting = false
        self.settled = (nil, false)
        let place = self.answers.reserve()
        self.agent.releaseHolder(self, isStopped: true) { [weak self] in
            self?.send(.withdrawn(holder: nil), at: place)
        }
        // UDP flows need no drain: a client's next payload goes to the original.
        self.forgetAllFlows()
        self.log.info("withdrawn: new connections reach the original", metadata: self.metadata)
        let seconds = Int64(self.intercept?.drainSeconds ?? 0)
        self.drain = self.agent.eventLoop.assumeIsolated().scheduleTask(in: .seconds(seconds)) { [weak self] in
            self?.drainIsOver()
        }
        self.stopIfDrained()
    }

    private func drainIsOver() {
        for client in self.clients.values { client.abandon(.shuttingDown) }
        self.stopIfDrained()
    }

    private func stopIfDrained() {
        guard self.isStopping, self.clients.isEmpty, self.drain != nil else { return }
        self.drain?.cancel()
        self.drain = nil
        self.sendStatus()
        self.send(.stopped(total: self.total, passed: self.passed))
        self.statusTimer?.cancel()
        self.statusTimer = nil
        self.intercept = nil
        self.divertedBefore = []
        self.since = nil
        self.isStopping = false
    }

    // MARK: Status

    /// Sent every second while something changes.
    private func startStatus() {
        guard self.statusTimer == nil else { return }
        self.statusTimer = self.agent.eventLoop.assumeIsolated().scheduleTask(in: .seconds(1)) { [weak self] in
            guard let self else { return }
            self.statusTimer = nil
            self.sendStatus()
            if self.intercept != nil { self.startStatus() }
        }
    }

    private func sendStatus() {
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
            bytesIn: self.bytesIn,
            bytesOut: self.bytesOut
        )
        for client in self.clients.values {
            status.bytesIn += client.bytesToStream
            status.bytesOut += client.bytesFromStream
        }
        return status
    }

    // MARK: Clients

    func wants(_ port: ServicePort) -> Bool { self.intercept?.ports.contains(port) ?? false }

    /// Opens a stream to the workspace for the client. False if none can be opened now.
    func open(_ client: Client) -> Bool {
        let address = ClientAddress(client.channel.remoteAddress)
        let header = ConnectionHeader(transport: .tcp, servicePort: client.port, client: address)
        var bytes = ByteBuffer()
        header.write(into: &bytes)
        if let version = self.intercept?.proxyProtocol {
            // Not part of the client's bytes: if the original gets the client after all, it doesn't get this header.
            ProxyHeader(client: address, destination: ClientAddress(client.called))
                .write(version, into: &bytes)
        }
        let opened = self.withConnection { connection -> StreamID? in
            guard let id = connection.openStream() else { return nil }
            connection.write(bytes, to: id)
            return id
        }
        guard let stream = opened ?? nil else { return false }
        let socket = BridgedSocket(
            self.access,
            stream: stream,
            channel: client.channel,
            keepAlive: self.agent.keepAlive,
            input: client.input
        ) { [unowned self] socket, end in self.ended(socket, end, client, stream) }
        self.total += 1
        self.clients[stream] = socket
        self.access.owners.bind(stream, to: socket)
        do {
            try client.channel.pipeline.syncOperations.addHandler(socket)
        } catch {
            // The client has gone.
            socket.abandon(.tcpReset)
            return true
        }
        socket.startWaiting(memory: self.agent.earlyMemory) { byte in
            switch Answer(rawValue: byte) {
            case .connected: .open
            case .refused, .unmapped, .timedOut, .other: .refused
            case nil: .invalid
            }
        }
        return true
    }

    private func ended(
        _ socket: BridgedSocket<ServerConnection>,
        _ end: BridgedSocket<ServerConnection>.End,
        _ client: Client,
        _ stream: StreamID
    ) {
        self.bytesIn += socket.bytesToStream
        self.bytesOut += socket.bytesFromStream
        self.streamIsDone(stream)
        switch end {
        case .done: self.agent.clientIsDone()
        case .refused(let early):
            self.agent.passOn(
                client,
                firstBytes: early.buffers,
                inputIsClosed: early.inputIsClosed,
                countedFor: self
            )
        }
    }

    /// The client's socket is closed or passed on: the stream can be released, so that the workspace grants another.
    private func streamIsDone(_ stream: StreamID) {
        self.clients[stream] = nil
        self.access.release(stream)
        self.stopIfDrained()
    }

    /// The agent ends: everything that is still open is reset.
    func abandonAll() { self.drainIsOver() }

    /// Open connections and UDP flows.
    var openCount: Int { self.clients.count + self.flows.byNumber.count }
}
