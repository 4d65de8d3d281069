import InterceptProtocol
import NIOCore
import Tunnel

/// One `probe` of a workspace: a stream for each port, as a client would have it, that says nothing and leaves.
///
/// ```
///   open: header, FIN ──▶ answer 0 to 4 ──▶ noted ──▶ the workspace's FIN ──▶ released
///                   └──▶ none within the time ──▶ left out ──▶ reset ──▶ released
/// ```
///
/// It shows that the tunnel carries streams, and that something listens behind each port. No client is counted for it.
final class Probe {
    let id: UInt64
    private unowned let link: WorkspaceLink
    /// Those that are still open, and for which port.
    private var streams: [StreamID: ControlMessage.Port] = [:]
    private var answers: [ControlMessage.Port: Answer] = [:]
    private var awaited: Set<ControlMessage.Port> = []
    private var timeout: Scheduled<Void>?
    private var onAnswers: (([ControlMessage.Port: Answer]) -> Void)?

    /// The workspace gives a connect 5 s.
    private static let within = TimeAmount.seconds(8)

    /// - Parameter onAnswers: called once, when all have answered or the time is over.
    init(
        _ probe: ControlMessage.Probe,
        link: WorkspaceLink,
        onAnswers: @escaping ([ControlMessage.Port: Answer]) -> Void
    ) {
        self.id = probe.id
        self.link = link
        self.onAnswers = onAnswers
        for port in Set(probe.ports) { self.open(port) }
        self.timeout = link.agent.eventLoop.assumeIsolated().scheduleTask(in: Self.within) { [weak self] in
            self?.timeIsOver()
        }
    }

    private func open(_ port: ControlMessage.Port) {
        let header = ConnectionHeader(transport: port.transport, servicePort: port.service, client: .unspecified)
        var bytes = ByteBuffer()
        header.write(into: &bytes)
        let opened = self.link.withConnection { connection -> StreamID? in
            guard let id = connection.openStream() else { return nil }
            connection.write(bytes, to: id)
            connection.finish(id)
            return id
        }
        // With no stream credit there is no answer either.
        guard let stream = opened ?? nil else { return }
        self.streams[stream] = port
        self.awaited.insert(port)
    }

    /// Calls back in: not from the initializer.
    func begin() { self.tellIfAnswered() }

    func handles(_ stream: StreamID) -> Bool { self.streams[stream] != nil }

    func streamIsReadable(_ stream: StreamID) {
        guard let port = self.streams[stream] else { return }
        while true {
            switch self.link.withConnection({ $0.read(stream) }) ?? .nothing {
            case .bytes(let bytes):
                // Of a workspace that doesn't know probes, what its server says follows: that is thrown away.
                guard self.awaited.remove(port) != nil, let byte: UInt8 = bytes.getInteger(at: bytes.readerIndex)
                else { continue }
                self.answers[port] = Answer(rawValue: byte)
            case .end:
                self.over(stream)
                return self.tellIfAnswered()
            case .nothing: return self.tellIfAnswered()
            }
        }
    }

    func streamWasReset(_ stream: StreamID) {
        self.link.withConnection { $0.reset(stream, .tcpReset) }
        self.over(stream)
        self.tellIfAnswered()
    }

    private func over(_ stream: StreamID) {
        if let port = self.streams.removeValue(forKey: stream) { self.awaited.remove(port) }
        self.link.withConnection { $0.release(stream) }
    }

    private func tellIfAnswered() {
        guard self.awaited.isEmpty else { return }
        let onAnswers = self.onAnswers
        self.onAnswers = nil
        onAnswers?(self.answers)
        guard self.streams.isEmpty else { return }
        self.timeout?.cancel()
        self.link.probeIsOver(self)
    }

    private func timeIsOver() {
        for stream in self.streams.keys {
            self.link.withConnection { connection in
                connection.reset(stream, .timedOut)
                connection.stopSending(stream, .timedOut)
            }
            self.over(stream)
        }
        self.tellIfAnswered()
    }

    /// It has its answers, and only waits for the ends of its streams.
    var isAnswered: Bool { self.onAnswers == nil }

    /// Waits no longer.
    func leave() {
        self.timeout?.cancel()
        self.timeIsOver()
    }

    /// The connection is over, and the streams with it.
    func cancel() {
        self.timeout?.cancel()
        self.onAnswers = nil
        self.streams = [:]
    }
}
