import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// The workspace's end of a flow's stream: each payload after its length.
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

    /// Called once the answer has been sent.
    func begin() {
        if let flow = self.flow { self.agent.flows.streamIsReady(flow) }
        self.streamIsReadable()
    }

    /// If the stream has no room, the payload is dropped like any lost datagram.
    func send(_ payload: ByteBuffer) {
        guard let bytes = LengthPrefixedPayloads.frame(payload) else { return }
        _ = self.withConnection { connection in
            guard connection.writableBytes(self.stream) >= bytes.readableBytes else { return }
            connection.write(bytes, to: self.stream)
        }
    }

    /// False if the sidecar has ended the stream, or the flow is over.
    private func read() -> Bool {
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

    /// The flow is over, or has a new stream.
    func leave(_ code: StreamErrorCode = .tcpReset) {
        self.flow = nil
        _ = self.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
        self.agent.streamIsDone(self.stream)
    }
}

extension LocalFlowStream: StreamOwner {
    func streamIsReadable() { if !self.read() { self.giveUp() } }

    func streamIsWritable() {}

    func streamWasReset(_ code: StreamErrorCode) {
        self.agent.noteCut(code)
        self.giveUp()
    }

    func streamWasStopped(_ code: StreamErrorCode) { self.streamWasReset(code) }

    func streamEnded() { self.giveUp() }

    /// The flow lives on without a stream.
    private func giveUp() {
        if let flow = self.flow, flow.stream === self { flow.stream = nil }
        self.leave()
    }
}
