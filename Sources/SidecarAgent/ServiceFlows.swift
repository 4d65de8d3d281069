import Carriers
import Diversion
import InterceptProtocol
import NIOCore

/// The flows of all clients of the service's UDP ports. Each payload goes to the workspace, or to the original through one
/// of this agent's sockets, so that the client is answered from the address that it sent to.
final class ServiceFlows {
    private unowned let agent: SidecarAgent
    private var table: FlowTable<FlowKey, ClientFlow>
    private let expiry = FlowExpiry()
    private var budget = FlowBudget()
    private var droppedSince: (said: NIODeadline, count: UInt64)?
    private let unreachable = PortUnreachable()
    private let times: FlowTimes
    private let upkeep: FlowUpkeep

    /// How long the kernel surely remembers a redirected flow: its default is 30 s, but it can be set lower. †
    private static let kernelKnows = TimeAmount.seconds(5)

    /// - Parameter atMost: the maximum number of flows; a further one replaces another, as `FlowTable` chooses.
    init(agent: SidecarAgent, atMost: Int) {
        self.agent = agent
        let answered = KernelFlowTimes.answered
        self.times = .atSidecar(kernel: answered)
        self.table = FlowTable(atMost: atMost, times: self.times)
        self.upkeep = FlowUpkeep(kernel: [KernelFlowTimes.brief, answered].compactMap(\.self).min())
    }

    var count: Int { self.table.count }

    /// Takes a payload from a client.
    func take(_ arrival: DatagramListener.Arrival, on listener: DatagramListener, port: UInt16) {
        let now = NIODeadline.now()
        let key = FlowKey(client: ClientAddress(arrival.client), port: port)
        if let flow = self.table.use(key, at: now) {
            flow.note(arrival, on: listener)
            return self.received(arrival.payload, of: flow, at: now)
        }
        guard self.budget.allows(at: now) else { return self.countDropped(at: now) }
        guard let flow = self.begin(key, listener, arrival) else { return }
        self.table.insert(flow, for: key, at: now)?.end()
        self.watchExpiry()
        self.received(arrival.payload, of: flow, at: now)
    }

    /// Logged at most once a minute.
    private func countDropped(at now: NIODeadline) {
        let count = (self.droppedSince?.count ?? 0) + 1
        if let said = self.droppedSince?.said, now - said < .minutes(1) {
            self.droppedSince = (said, count)
            return
        }
        self.droppedSince = (now, 0)
        self.agent.log.warning(
            "more new UDP clients than are taken; what they sent is dropped",
            metadata: ["dropped": "\(count)", "new_per_second": "\(FlowLimits.newPerSecond)"]
        )
    }

    private func begin(
        _ key: FlowKey,
        _ listener: DatagramListener,
        _ arrival: DatagramListener.Arrival
    ) -> ClientFlow? {
        guard let upstream = self.agent.upstream(of: .init(key.port, .udp)) else { return nil }
        var called: SocketAddress?
        #if os(Linux)
        if let redirect = self.agent.redirect {
            switch redirect.called(by: arrival.client, taking: arrival.called, port: key.port) {
            case .address(let address): called = address
            // The client sent to the listener's own port: forwarding would loop, or let it bypass the namespace's rules.
            case .listener: return nil
            // Only the workspace can serve this flow: the original can't be reached without the address that the client called.
            case .unknown: guard self.agent.diverted.udp.contains(key.port) else { return nil }
            }
        }
        #endif
        let sides = self.agent.sides(of: .init(key.port, .udp))
        return ClientFlow(key, upstream: upstream, sides: sides, called: called, listener, arrival)
    }

    private func received(_ payload: ByteBuffer, of flow: ClientFlow, at now: NIODeadline) {
        self.send(payload, of: flow, at: now)
        for mirror in flow.sides.mirrors { mirror.copy(payload, of: flow, at: now) }
    }

    /// Sends the payload to the workspace or to the original.
    private func send(_ payload: ByteBuffer, of flow: ClientFlow, at now: NIODeadline) {
        guard let holder = flow.sides.holder else { return self.passOn(payload, of: flow, countedFor: nil) }
        if let side = flow.sides.defaultSide, flow.route.mayTryWorkspace(at: now),
            !side.isSilent || flow.link === side && flow.route.isUnderWay(at: now)
        {
            if flow.link !== side || flow.route.way == .original {
                side.begin(flow)
                self.agent.flowWasIntercepted()
            }
            if side.send(payload, of: flow, at: now) { return }
            // The tunnel had no room for this payload. The client isn't told of a refusal, since the next may get through.
            return self.passOn(payload, of: flow, countedFor: holder, tellsRefusal: false)
        }
        self.passOn(payload, of: flow, countedFor: holder)
    }

    /// Sends the payload to the original, or refuses it where `onUnavailable` is `refuse`.
    func passOn(
        _ payload: ByteBuffer,
        of flow: ClientFlow,
        countedFor link: WorkspaceLink?,
        tellsRefusal: Bool = true
    ) {
        if flow.route.way != .original { flow.link?.forget(flow) }
        if link?.holding?.refuses == true { return tellsRefusal ? self.refuse(flow) : () }
        guard let original = flow.original ?? self.openOriginal(for: flow, countedFor: link) else { return }
        original.send(payload)
    }

    private func openOriginal(for flow: ClientFlow, countedFor link: WorkspaceLink?) -> DatagramSocket? {
        guard let target = self.agent.original(at: flow.upstream, port: flow.key.port, called: flow.called) else {
            return nil
        }
        let own = self.agent.ownSocket(
            to: flow.upstream,
            .init(flow.key.port, .udp),
            for: flow.client,
            calling: flow.called
        )
        let socket = DatagramSocket(target, prepare: own?.prepare, on: self.agent.eventLoop) {
            [weak self, weak flow] event in
            guard let self, let flow else { return }
            switch event {
            case .payload(let payload):
                if own?.address != nil, !flow.isSeen {
                    flow.isSeen = true
                    self.keepSeen()
                }
                _ = self.table.use(flow.key, isAnswer: true, at: .now())
                self.deliver(payload, to: flow)
            // The client's next payload opens a new socket.
            case .failed(let error):
                flow.original = nil
                if flow.route.way == .original, SocketError.isRefusal(error) { self.refuse(flow) }
            }
        }
        flow.original = socket
        flow.isSeen = false
        flow.keptAt = nil
        self.agent.flowWasPassed(countedFor: link)
        return socket
    }

    /// Answers with an ICMP port unreachable, UDP's equivalent of a reset, if this process may send it.
    private func refuse(_ flow: ClientFlow) {
        guard let called = flow.calledAddress else { return }
        self.unreachable.tell(flow.client, called: called, size: flow.lastSize)
    }

    /// Delivers the workspace's answer.
    func answer(_ payload: ByteBuffer, to flow: ClientFlow) {
        guard self.table.use(flow.key, isAnswer: true, at: .now()) != nil else { return }
        flow.route.answered(at: .now())
        // The workspace serves the flow now; a late answer from the original must not mix with its answers.
        flow.original?.close()
        flow.original = nil
        self.deliver(payload, to: flow)
    }

    private func deliver(_ payload: ByteBuffer, to flow: ClientFlow) {
        #if os(Linux)
        if let redirect = self.agent.redirect, let called = flow.called, let arrival = flow.answersFrom,
            NIODeadline.now() - flow.usedAt >= Self.kernelKnows
        {
            redirect.keepFlow(of: flow.client, called: called, arrival: arrival, port: flow.key.port)
        }
        #endif
        flow.answer(payload)
    }

    // MARK: What the kernel remembers

    /// The original's answers to a client's address come back only while the kernel tracks the flow of the socket that has that
    /// address. It forgets one with a single exchange after 30 s, so it is told to remember it for as long as this table does.
    private func keepSeen() {
        #if os(Linux)
        guard let redirect = self.agent.redirect else { return }
        self.upkeep.begin(on: self.agent.eventLoop) { [weak self, weak redirect] in
            guard let self, let redirect else { return false }
            let now = NIODeadline.now()
            let seen = self.table.flows.filter { $0.isSeen && $0.original != nil }
            let idle = seen.filter { self.upkeep.isDue(usedAt: $0.usedAt, keptAt: $0.keptAt, at: now) }
            let flows = idle.compactMap { flow in
                flow.original?.addresses.map { addresses in
                    RedirectDiversion.OwnFlow(
                        from: addresses.from,
                        to: addresses.to,
                        time: self.times.answered - (now - flow.usedAt) + FlowUpkeep.margin
                    )
                }
            }
            for flow in idle { flow.keptAt = now }
            if !flows.isEmpty { redirect.keepOwn(flows) }
            return !seen.isEmpty
        }
        #endif
    }

    // MARK: Ends

    private func watchExpiry() {
        self.expiry.watch(self.table.nextExpiry, on: self.agent.eventLoop) { [weak self] in
            guard let self else { return }
            for flow in self.table.expire(at: .now()) { flow.end() }
            self.watchExpiry()
        }
    }

    func close() {
        self.expiry.cancel()
        self.upkeep.cancel()
        for flow in self.table.removeAll() { flow.end() }
    }
}
