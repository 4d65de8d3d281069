import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// One `probe` request of a workspace: for each port the sidecar opens a stream as for a client, sends nothing on it and ends it.
///
/// ```
///   open: header, FIN ──▶ answer 0 to 4 ──▶ noted ──▶ the workspace's FIN ──▶ released
///                   └──▶ none within the time ──▶ left out ──▶ reset ──▶ released
/// ```
///
/// The answers, which are an `Answer` each, show that the tunnel carries streams and which ports have a server behind them. A
/// probe isn't counted as a client.
final class Probe {
    let id: UInt64
    private unowned let link: WorkspaceLink
    /// The streams that are still open, with their ports.
    private var streams: [StreamID: ServicePort] = [:]
    private var answers: [ServicePort: Answer] = [:]
    private var awaited: Set<ServicePort> = []
    private var timeout: Scheduled<Void>?
    private var onAnswers: (([ServicePort: Answer]) -> Void)?

    /// The workspace allows 5 s for a connect.
    private static let within = TimeAmount.seconds(8)

    /// - Parameter onAnswers: called once, when all ports are answered or the time is over.
    init(
        _ probe: ControlMessage.Probe,
        link: WorkspaceLink,
        onAnswers: @escaping ([ServicePort: Answer]) -> Void
    ) {
        self.id = probe.id
        self.link = link
        self.onAnswers = onAnswers
        for port in Set(probe.ports) { self.open(port) }
        self.timeout = link.agent.eventLoop.assumeIsolated().scheduleTask(in: Self.within) { [weak self] in
            self?.timeIsOver()
        }
    }

    private func open(_ port: ServicePort) {
        let header = ConnectionHeader(transport: port.transport, servicePort: port.number, client: .unspecified)
        var bytes = ByteBuffer()
        header.write(into: &bytes)
        let opened = self.link.withConnection { connection -> StreamID? in
            guard let id = connection.openStream() else { return nil }
            connection.write(bytes, to: id)
            connection.finish(id)
            return id
        }
        // Without stream credit the port is left out of the answers.
        guard let stream = opened ?? nil else { return }
        self.streams[stream] = port
        self.awaited.insert(port)
    }

    /// Separate from the initializer because it may call `onAnswers`.
    func begin() { self.tellIfAnswered() }

    func streamIsReadable(_ stream: StreamID) {
        guard let port = self.streams[stream] else { return }
        while true {
            switch self.link.withConnection({ $0.read(stream) }) ?? .nothing {
            case .bytes(let bytes):
                // A workspace that doesn't know probes relays what its server says after the answer: discard it.
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
        guard self.streams[stream] != nil else { return }
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

    /// All ports are answered or left out; only the ends of the streams are missing.
    var isAnswered: Bool { self.onAnswers == nil }

    /// Stops waiting, and resets the streams that are still open.
    func leave() {
        self.timeout?.cancel()
        self.timeIsOver()
    }

    /// The connection has ended, and its streams with it.
    func cancel() {
        self.timeout?.cancel()
        self.onAnswers = nil
        self.streams = [:]
    }
}
