import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// A flow's stream, for payloads too large for one message: header, answer, then each payload after its length.
///
/// Nothing is queued: if the stream has no room, the payload is dropped like any lost datagram.
final class FlowStream {
    private unowned let link: WorkspaceLink
    private weak var flow: ClientFlow?
    let stream: StreamID
    private var isAnswered = false
    private var input = LengthPrefixedPayloads()

    /// nil if no stream can be opened now.
    init?(_ flow: ClientFlow, link: WorkspaceLink) {
        var header = ByteBuffer()
        flow.header.write(into: &header)
        let opened = link.withConnection { connection -> StreamID? in
            guard let id = connection.openStream() else { return nil }
            connection.write(header, to: id)
            return id
        }
        guard let stream = opened ?? nil else { return nil }
        self.link = link
        self.flow = flow
        self.stream = stream
    }

    func send(_ payload: ByteBuffer) {
        guard let bytes = LengthPrefixedPayloads.frame(payload) else { return }
        self.link.withConnection { connection in
            guard connection.writableBytes(self.stream) >= bytes.readableBytes else { return }
            _ = connection.write(bytes, to: self.stream)
        }
    }

    /// Gives up both directions.
    func close(_ code: StreamErrorCode = .tcpReset) {
        self.link.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
        self.leave()
    }

    private func leave() {
        self.link.access.release(self.stream)
        self.flow?.stream = nil
    }
}

extension FlowStream: StreamOwner {
    func streamIsReadable() {
        while let flow = self.flow, flow.stream === self {
            let wanted = self.isAnswered ? self.input.wanted : 1
            switch self.link.withConnection({ $0.read(self.stream, atMost: wanted) }) ?? .nothing {
            case .bytes(let bytes):
                guard self.isAnswered else {
                    guard self.takeAnswer(bytes, of: flow) else { return }
                    continue
                }
                self.input.append(bytes)
                if let payload = self.input.next() { self.link.deliver(payload, to: flow) }
            case .end: return self.close()
            case .nothing: return
            }
        }
    }

    private func takeAnswer(_ bytes: ByteBuffer, of flow: ClientFlow) -> Bool {
        let byte: UInt8 = bytes.getInteger(at: bytes.readerIndex) ?? .max
        if byte == Answer.connected.rawValue {
            self.isAnswered = true
            return true
        }
        self.close(.handedToOriginal)
        if let notice = FlowNotice(rawValue: byte), notice.isRefusal { self.link.refused(flow) }
        return false
    }

    func streamIsWritable() {}

    /// Code 1 (`handedToOriginal`): nothing listens at the workspace, so the flow goes to the original.
    func streamWasReset(_ code: StreamErrorCode) {
        let flow = self.flow
        self.close()
        if code == .handedToOriginal, let flow, flow.link === self.link { self.link.refused(flow) }
    }

    func streamWasStopped(_ code: StreamErrorCode) { self.close(code) }
    func streamEnded() { self.leave() }
}
