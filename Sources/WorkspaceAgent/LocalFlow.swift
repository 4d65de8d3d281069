import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// One client's flow at the workspace: a socket of its own towards the local server, so that each answer is its client's.
final class LocalFlow {
    let number: UInt64
    let header: ConnectionHeader
    fileprivate let socket: DatagramSocket
    /// For what no message holds; only the sidecar can open one.
    var stream: LocalFlowStream?
    /// What waits for it: one payload, since a client waits for its last question's answer.
    fileprivate var waiting: ByteBuffer?

    fileprivate init(_ number: UInt64, _ header: ConnectionHeader, _ socket: DatagramSocket) {
        self.number = number
        self.header = header
        self.socket = socket
    }
}

/// All flows of UDP clients that the sidecar sends here.
final class LocalFlows {
    private unowned let agent: WorkspaceAgent
    private var table = FlowTable<UInt64, LocalFlow>(atMost: FlowLimits.flows, idle: FlowLimits.idleAtWorkspace)
    /// A stream's header tells the client, not the flow.
    private var byClient: [ConnectionHeader: UInt64] = [:]
    private var waitingBytes = 0
    private var expiry: Scheduled<Void>?

    /// Of payloads that wait for a stream, all flows together. †
    private static let waitingAtMost = 1_024 * 1_024

    init(agent: WorkspaceAgent) { self.agent = agent }

    var count: Int { self.table.count }

    private func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.agent.client?.withConnection(body)
    }

    // MARK: What comes

    func receiveDatagrams() {
        while let datagram = self.withConnection({ $0.nextDatagram() }) ?? nil {
            switch FlowDatagram.parse(datagram) {
            case .datagram(.payload(let number, let payload)):
                if let flow = self.table.use(number, at: .now()) {
                    flow.socket.send(payload)
                } else {
                    self.tell(.unknown, of: number)
                }
            case .datagram(.opening(let number, let header, let payload)):
                self.flow(number, header)?.socket.send(payload)
            case .unsupported(let number): self.tell(.other, of: number)
            // Only a workspace says it; or nothing that anyone says.
            case .datagram(.notice), .malformed: break
            }
        }
    }

    private func tell(_ notice: FlowNotice, of number: UInt64) {
        _ = self.withConnection { $0.sendDatagram(FlowDatagram.notice(flow: number, notice).encoded) }
    }

    /// The flow of this number, made if it isn't there; nil: its port isn't mapped, and the sidecar was told so.
    private func flow(_ number: UInt64, _ header: ConnectionHeader) -> LocalFlow? {
        if let known = self.table.use(number, at: .now()), known.header == header { return known }
        guard let target = self.agent.target(for: header) else {
            self.tell(.unmapped, of: number)
            return nil
        }
        let socket = DatagramSocket(target, on: self.agent.eventLoop) { [weak self] event in
            guard let self, let flow = self.table.peek(number) else { return }
            switch event {
            case .payload(let payload): self.answer(payload, of: flow)
            case .failed(let error): self.failed(flow, error)
            }
        }
        let flow = LocalFlow(number, header, socket)
        if let gone = self.table.insert(flow, for: number, at: .now()) { self.close(gone) }
        self.byClient[header] = number
        self.watchExpiry()
        return flow
    }

    private func failed(_ flow: LocalFlow, _ error: any Error) {
        self.agent.localServerFailed(flow.port, error)
        self.end(flow)
        self.tell(Failure.isRefusal(error) ? .refused : .other, of: flow.number)
    }

    // MARK: Answers

    private func answer(_ payload: ByteBuffer, of flow: LocalFlow) {
        _ = self.table.use(flow.number, at: .now())
        self.agent.localServerAnswered(flow.port)
        let datagram = FlowDatagram.payload(flow: flow.number, payload).encoded
        let fits = self.withConnection { connection -> Bool in
            guard datagram.readableBytes <= connection.greatestDatagram else { return false }
            connection.sendDatagram(datagram)
            return true
        }
        if fits ?? true { return }
        if let stream = flow.stream { return stream.send(payload) }
        self.keep(payload, for: flow)
        self.tell(.needsStream, of: flow.number)
    }

    private func keep(_ payload: ByteBuffer?, for flow: LocalFlow) {
        self.waitingBytes -= flow.waiting?.readableBytes ?? 0
        flow.waiting = nil
        guard let payload, self.waitingBytes + payload.readableBytes <= Self.waitingAtMost else { return }
        flow.waiting = payload
        self.waitingBytes += payload.readableBytes
    }

    // MARK: Streams

    /// A stream whose header is UDP's: nil: its port isn't mapped.
    func attach(_ stream: StreamID, _ header: ConnectionHeader) -> LocalFlowStream? {
        guard let number = self.byClient[header], let flow = self.table.use(number, at: .now()) else { return nil }
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
        if self.table.use(flow.number, at: .now()) != nil { flow.socket.send(payload) }
    }

    // MARK: Ends

    private func watchExpiry() {
        guard self.expiry == nil, let next = self.table.nextExpiry else { return }
        self.expiry = self.agent.eventLoop.assumeIsolated().scheduleTask(deadline: next) { [weak self] () -> Void in
            guard let self else { return }
            self.expiry = nil
            for flow in self.table.expire(at: .now()) { self.close(flow) }
            self.watchExpiry()
        }
    }

    private func end(_ flow: LocalFlow) {
        if self.table.remove(flow.number) != nil { self.close(flow) }
    }

    private func close(_ flow: LocalFlow) {
        self.keep(nil, for: flow)
        if self.byClient[flow.header] == flow.number { self.byClient[flow.header] = nil }
        flow.socket.close()
        flow.stream?.leave()
        flow.stream = nil
    }

    /// The connection is over, or the ports lead elsewhere: numbers mean nothing any more, or the sidecar is asked again.
    func endAll() {
        self.expiry?.cancel()
        self.expiry = nil
        for flow in self.table.removeAll() { self.close(flow) }
    }
}

extension LocalFlow {
    var port: ControlMessage.Port { ControlMessage.Port(service: self.header.servicePort, transport: .udp) }
}

/// A flow's stream: each payload after its length.
final class LocalFlowStream {
    private let stream: StreamID
    private weak var flow: LocalFlow?
    private unowned let agent: WorkspaceAgent
    private var input = LengthPrefixedPayloads()

    init(_ stream: StreamID, flow: LocalFlow, agent: WorkspaceAgent) {
        self.stream = stream
        self.flow = flow
        self.agent = agent
    }

    private func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.agent.client?.withConnection(body)
    }

    /// After the answer.
    func begin() {
        if let flow = self.flow { self.agent.flows.streamIsReady(flow) }
        self.read()
    }

    /// Where the stream has no room, a payload is dropped as any datagram may be.
    func send(_ payload: ByteBuffer) {
        guard let bytes = LengthPrefixedPayloads.frame(payload) else { return }
        _ = self.withConnection { connection in
            guard connection.writableBytes(self.stream) >= bytes.readableBytes else { return }
            connection.write(bytes, to: self.stream)
        }
    }

    /// False: the sidecar has ended it.
    @discardableResult
    func read() -> Bool {
        while let flow = self.flow {
            switch self.withConnection({ $0.read(self.stream, atMost: self.input.wanted) }) ?? .nothing {
            case .bytes(let bytes):
                self.input.append(bytes)
                if let payload = self.input.next() { self.agent.flows.received(payload, of: flow) }
            case .end: return false
            case .nothing: return true
            }
        }
        return false
    }

    /// Its flow is over, or has another.
    func leave() {
        self.flow = nil
        _ = self.withConnection { connection in
            connection.reset(self.stream, .tcpReset)
            connection.stopSending(self.stream, .tcpReset)
        }
        self.agent.connections[self.stream]?.flowEnded()
    }

    /// The stream is over.
    func streamIsOver() {
        if let flow = self.flow, flow.stream === self { flow.stream = nil }
        self.flow = nil
    }
}
