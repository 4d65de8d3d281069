import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// One client's flow at the workspace. Its own socket to the local server tells its answers from other clients'.
final class LocalFlow {
    let header: ConnectionHeader
    /// nil while only a stream has announced the flow.
    fileprivate var number: UInt64?
    fileprivate let socket: DatagramSocket
    private let descriptor: HeldDescriptor
    /// For payloads too large for one message; only the sidecar can open it.
    var stream: LocalFlowStream?
    /// The answer that waits for the stream. One is enough: a client usually waits for an answer before it sends again.
    fileprivate var waiting: ByteBuffer?

    fileprivate init(_ header: ConnectionHeader, _ socket: DatagramSocket, _ descriptor: HeldDescriptor) {
        self.header = header
        self.socket = socket
        self.descriptor = descriptor
    }

    var port: ServicePort { ServicePort(self.header.servicePort, .udp) }
}

/// All flows of UDP clients that the sidecar sends here: by client, and by number if they have one.
final class LocalFlows {
    private unowned let agent: WorkspaceAgent
    private var table: FlowTable<ConnectionHeader, LocalFlow>
    /// A flow has at most one number: the latest that its header came with.
    private var byNumber: [UInt64: LocalFlow] = [:]
    private var waitingBytes = 0
    private let expiry = FlowExpiry()
    private var budget = FlowBudget()
    private var isReceiving = false

    /// Datagrams handled in one turn of the loop: each may need a new socket. †
    private static let takenAtOnce = 32
    /// The limit for payloads that wait for a stream, of all flows together. †
    private static let waitingAtMost = 1_024 * 1_024

    init(agent: WorkspaceAgent) {
        self.agent = agent
        let atMost = FlowLimits.flows(ofDescriptors: agent.configuration.descriptorLimit)
        self.table = FlowTable(atMost: atMost, times: .atWorkspace)
    }

    private func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.agent.client?.withConnection(body)
    }

    // MARK: Receiving

    /// Handles a limited number of received datagrams, and the rest in later turns of the loop.
    func receiveDatagrams() {
        guard !self.isReceiving else { return }
        for _ in 0..<Self.takenAtOnce where !self.receiveDatagram() { return }
        self.isReceiving = true
        self.agent.eventLoop.inNextTurn { [weak self] in
            self?.isReceiving = false
            self?.receiveDatagrams()
        }
    }

    /// False if there is none.
    private func receiveDatagram() -> Bool {
        guard let datagram = self.withConnection({ $0.nextDatagram() }) ?? nil else { return false }
        switch FlowDatagram.parse(datagram) {
        case .datagram(.payload(let number, let payload)):
            guard let flow = self.byNumber[number] else {
                self.tell(.unknown, of: number)
                break
            }
            self.received(payload, of: flow)
        case .datagram(.opening(let number, let header, let payload)):
            switch self.flow(header) {
            case .found(let flow):
                self.name(flow, number)
                flow.socket.send(payload)
            case .unmapped: self.tell(.unmapped, of: number)
            case .tooMany: break
            }
        case .unsupported(let number): self.tell(.other, of: number)
        // Notices come only from a workspace; malformed datagrams are dropped.
        case .datagram(.notice), .malformed: break
        }
        return true
    }

    private func tell(_ notice: FlowNotice, of number: UInt64) {
        _ = self.withConnection { $0.sendDatagram(FlowDatagram.notice(flow: number, notice).encoded) }
    }

    private enum Lookup {
        case found(LocalFlow)
        /// The port isn't mapped.
        case unmapped
        /// The limit of new clients or of descriptors is reached.
        case tooMany
    }

    /// The client's flow; it is created if it doesn't exist.
    private func flow(_ header: ConnectionHeader) -> Lookup {
        let now = NIODeadline.now()
        if let known = self.table.use(header, at: now) { return .found(known) }
        guard let target = self.agent.target(for: header) else { return .unmapped }
        guard self.budget.allows(at: now), let descriptor = self.agent.descriptors.take() else { return .tooMany }
        let socket = DatagramSocket(target, on: self.agent.eventLoop) { [weak self] event in
            guard let self, let flow = self.table.peek(header) else { return }
            switch event {
            case .payload(let payload): self.answer(payload, of: flow)
            case .failed(let error): self.failed(flow, error)
            }
        }
        let flow = LocalFlow(header, socket, descriptor)
        if let gone = self.table.insert(flow, for: header, at: now) { self.close(gone) }
        self.watchExpiry()
        return .found(flow)
    }

    private func name(_ flow: LocalFlow, _ number: UInt64) {
        guard flow.number != number else { return }
        if let before = flow.number { self.byNumber[before] = nil }
        // If another flow had this number, it loses it and needs a new one.
        self.byNumber[number]?.number = nil
        flow.number = number
        self.byNumber[number] = flow
    }

    private func failed(_ flow: LocalFlow, _ error: any Error) {
        self.agent.localServerFailed(flow.port, error)
        let number = flow.number
        self.table.remove(flow.header)
        self.close(flow, .handedToOriginal)
        if let number { self.tell(SocketError.isRefusal(error) ? .refused : .other, of: number) }
    }

    // MARK: Answers

    private func answer(_ payload: ByteBuffer, of flow: LocalFlow) {
        _ = self.table.use(flow.header, isAnswer: true, at: .now())
        self.agent.localServerAnswered(flow.port)
        guard self.agent.configuration.kind == .intercept else { return }
        guard let number = flow.number else { return flow.stream?.send(payload) ?? () }
        let datagram = FlowDatagram.payload(flow: number, payload).encoded
        let fits = self.withConnection { connection -> Bool in
            guard datagram.readableBytes <= connection.greatestDatagram else { return false }
            connection.sendDatagram(datagram)
            return true
        }
        if fits ?? true { return }
        if let stream = flow.stream { return stream.send(payload) }
        self.keep(payload, for: flow)
        self.tell(.needsStream, of: number)
    }

    private func keep(_ payload: ByteBuffer?, for flow: LocalFlow) {
        self.waitingBytes -= flow.waiting?.readableBytes ?? 0
        flow.waiting = nil
        guard let payload, self.waitingBytes + payload.readableBytes <= Self.waitingAtMost else { return }
        flow.waiting = payload
        self.waitingBytes += payload.readableBytes
    }

    // MARK: Streams

    /// Takes over a stream with a UDP header. nil if its port isn't mapped, or there are too many flows.
    func attach(_ stream: StreamID, _ header: ConnectionHeader) -> LocalFlowStream? {
        guard case .found(let flow) = self.flow(header) else { return nil }
        flow.stream?.leave()
        let attached = LocalFlowStream(stream, flow: flow, agent: self.agent)
        flow.stream = attached
        return attached
    }

    func streamIsReady(_ flow: LocalFlow) {
        guard let waiting = flow.waiting, let stream = flow.stream else { return }
        self.keep(nil, for: flow)
        stream.send(waiting)
    }

    func received(_ payload: ByteBuffer, of flow: LocalFlow) {
        if self.table.use(flow.header, at: .now()) != nil { flow.socket.send(payload) }
    }

    // MARK: Ends

    private func watchExpiry() {
        self.expiry.watch(self.table.nextExpiry, on: self.agent.eventLoop) { [weak self] in
            guard let self else { return }
            for flow in self.table.expire(at: .now()) { self.close(flow) }
            self.watchExpiry()
        }
    }

    private func close(_ flow: LocalFlow, _ code: StreamErrorCode = .tcpReset) {
        self.keep(nil, for: flow)
        if let number = flow.number { self.byNumber[number] = nil }
        flow.number = nil
        flow.socket.close()
        flow.stream?.leave(code)
        flow.stream = nil
    }

    /// The connection has ended, or the ports have new targets. The sidecar will have to announce its flows again.
    func endAll() {
        self.expiry.cancel()
        for flow in self.table.removeAll() { self.close(flow) }
    }
}
