import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// One intercepted connection at the workspace, from its stream's header to the local server.
///
/// ```
///   header ──▶ connecting, in its turn ── connected: answer 0 ──▶ BridgedSocket
///     │            ├── failed: answer 1, 3 or 4 ──▶ refused: what still comes is thrown away
///     │            └── UDP: answer 0 ──▶ LocalFlowStream
///     └── no such port, unreadable: answer 2 or 4 ──▶ refused
/// ```
///
/// A bridge or a flow's stream owns the stream from then on.
/// A probe from the sidecar gets its answer and no more: the local server sees a client that connects and leaves. In a mirror, what
/// the local server says is thrown away.
final class LocalConnection {
    private enum State {
        case header
        case connecting
        case refused
        /// The stream is released, or has another owner.
        case over
    }

    private unowned let agent: WorkspaceAgent
    private let stream: StreamID
    private var state = State.header
    private var headerBytes = ByteBuffer()
    private var headerTimeout: Scheduled<Void>?
    private var isProbe = false
    private var wasCut = false
    /// The client was reset, but the bytes that it sent before still wait for the local server.
    private var isReset = false
    private var descriptor: HeldDescriptor?
    private var port = ServicePort(0)

    private static let connectTimeout = TimeAmount.seconds(5)  // †
    private static let headerWithin = TimeAmount.seconds(10)
    /// The longest header, with an IPv6 address. The client's bytes follow it and stay in the stream.
    private static let headerAtMost = 23

    init(agent: WorkspaceAgent, stream: StreamID) {
        self.agent = agent
        self.stream = stream
        self.headerTimeout = agent.eventLoop.assumeIsolated().scheduleTask(in: Self.headerWithin) { [weak self] in
            self?.abandon()
        }
    }

    private func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.agent.client?.withConnection(body)
    }

    private func readHeader() {
        while case .header = self.state {
            // Don't read beyond the header, into the client's bytes: the fifth byte tells the header's length.
            let wanted = self.headerBytes.readableBytes < 5 ? 5 - self.headerBytes.readableBytes : self.restOfHeader
            switch self.withConnection({ $0.read(self.stream, atMost: wanted) }) ?? .nothing {
            case .bytes(var bytes): self.headerBytes.writeBuffer(&bytes)
            case .end, .nothing: return
            }
            switch ConnectionHeader.parse(&self.headerBytes) {
            case .needsMore: continue
            case .unsupported: self.answer(.other)
            case .header(let header): self.connect(header)
            }
        }
    }

    private var restOfHeader: Int {
        let family: UInt8 = self.headerBytes.getInteger(at: self.headerBytes.readerIndex + 4) ?? 6
        let length = family == 4 ? Self.headerAtMost - 12 : Self.headerAtMost
        return max(1, length - self.headerBytes.readableBytes)
    }

    private func connect(_ header: ConnectionHeader) {
        self.headerTimeout?.cancel()
        self.isProbe = header.client.isUnspecified
        self.port = ServicePort(header.servicePort, header.transport)
        guard let target = self.agent.target(for: header) else { return self.answer(.unmapped) }
        if header.transport == .udp {
            // A missing UDP server shows only when something is sent to it, and a probe sends nothing.
            if self.isProbe { return self.answer(.connected) }
            self.state = .connecting
            return self.agent.dialTurns.make { [weak self] in self?.join(header) }
        }
        // Without a free descriptor the connection is left to the original.
        guard let descriptor = self.agent.descriptors.take() else { return self.answer(.other) }
        self.descriptor = descriptor
        self.state = .connecting
        self.agent.dialTurns.make { [weak self] in self?.dial(target, header, descriptor) }
    }

    private func dial(_ target: DialTarget, _ header: ConnectionHeader, _ descriptor: HeldDescriptor) {
        guard case .connecting = self.state else { return }
        target.connect(on: self.agent.eventLoop, timeout: Self.connectTimeout).assumeIsolated()
            .whenComplete { [weak self] result in
                // The descriptor stays counted until the socket is done, even if the stream has been given up meanwhile.
                withExtendedLifetime(descriptor) {
                    switch result {
                    case .success(let channel): self?.connected(channel) ?? channel.closeWithReset()
                    case .failure(let error): self?.failed(error, header)
                    }
                }
            }
    }

    private func join(_ header: ConnectionHeader) {
        guard case .connecting = self.state else { return }
        if self.isReset { return self.giveUp(.tcpReset) }
        guard let stream = self.agent.flows.attach(self.stream, header) else { return self.answer(.other) }
        self.handOver(to: stream)
        stream.begin()
    }

    /// Answers that there is a server, or a flow.
    private func handOver(to owner: any StreamOwner) {
        self.state = .over
        self.agent.client?.owners.bind(self.stream, to: owner)
        self.withConnection { _ = $0.write(Self.byte(.connected), to: self.stream) }
    }

    private func connected(_ channel: any Channel) {
        guard case .connecting = self.state else { return channel.closeWithReset() }
        guard let client = self.agent.client else { return channel.closeWithReset() }
        self.agent.localServerAnswered(self.port)
        if self.isProbe {
            self.leave(channel)
            return self.answer(.connected)
        }
        let rounds = self.agent.keepAlive
        let (agent, stream, descriptor) = (self.agent, self.stream, self.descriptor)
        let input = UrgentInput(channel)
        let bridge = BridgedSocket(client, stream: stream, channel: channel, keepAlive: rounds, input: input) {
            [unowned agent] bridge, _ in
            withExtendedLifetime(descriptor) {
                if let code = bridge.peersCode { agent.noteCut(code) }
                agent.streamIsDone(stream)
            }
        }
        let handlers: [any ChannelHandler] =
            self.agent.configuration.kind == .mirror ? [DiscardedInput(input), bridge] : [bridge]
        guard (try? channel.pipeline.syncOperations.addHandlers(handlers)) != nil else {
            channel.closeWithReset()
            return self.answer(.other)
        }
        self.handOver(to: bridge)
        self.descriptor = nil
        bridge.start()
        if self.isReset { bridge.streamWasReset(.tcpReset) }
    }

    /// A server that expects a PROXY header gets one that names no client.
    private func leave(_ channel: any Channel) {
        if let version = self.agent.configuration.proxyProtocol {
            var bytes = ByteBuffer()
            ProxyHeader.local.write(version, into: &bytes)
            channel.writeAndFlush(bytes, promise: nil)
        }
        channel.closeProperly()
    }

    private func failed(_ error: any Error, _ header: ConnectionHeader) {
        guard case .connecting = self.state else { return }
        self.agent.localServerFailed(self.port, error)
        switch error {
        case ChannelError.connectTimeout: self.answer(.timedOut)
        case _ where SocketError.isRefusal(error): self.answer(.refused)
        default: self.answer(.other)
        }
    }

    private static func byte(_ answer: Answer) -> ByteBuffer { ByteBuffer(integer: answer.rawValue) }

    /// Sends the final answer: a refusal, or success for a probe. No server has seen a byte, so all may still go to the original.
    private func answer(_ answer: Answer) {
        self.headerTimeout?.cancel()
        self.state = .refused
        self.withConnection { connection in
            connection.write(Self.byte(answer), to: self.stream)
            connection.finish(self.stream)
        }
        self.discard()
        // The stream was reset before, so no further event will end it.
        if self.isReset { self.giveUp(.tcpReset) }
    }

    /// Discards what still arrives, so that its flow-control credit is returned.
    private func discard() {
        while let read = self.withConnection({ $0.read(self.stream) }) {
            switch read {
            case .bytes: continue
            case .end: return self.done()
            case .nothing: return
            }
        }
    }

    /// RESET and STOP_SENDING both come, in either order.
    private func noteCut(_ code: StreamErrorCode) {
        if !self.wasCut { self.agent.noteCut(code) }
        self.wasCut = self.wasCut || code == .shuttingDown
    }

    private func abandon() { self.giveUp(.timedOut) }

    private func giveUp(_ code: StreamErrorCode) {
        self.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
        self.done()
    }

    private func done() {
        if case .over = self.state { return }
        self.state = .over
        self.descriptor = nil
        self.headerTimeout?.cancel()
        self.agent.streamIsDone(self.stream)
    }
}

extension LocalConnection: StreamOwner {
    func streamIsReadable() {
        switch self.state {
        case .header: self.readHeader()
        case .refused: self.discard()
        case .connecting, .over: break
        }
    }

    func streamIsWritable() {}

    func streamWasReset(_ code: StreamErrorCode) {
        self.noteCut(code)
        switch self.state {
        case .header, .connecting:
            self.withConnection { $0.reset(self.stream, .tcpReset) }
            if !self.waitsWithLastWords(code) { self.done() }
        // The answer already given stands.
        case .refused: self.done()
        case .over: break
        }
    }

    func streamWasStopped(_ code: StreamErrorCode) {
        self.noteCut(code)
        switch self.state {
        case .header, .connecting:
            if self.waitsWithLastWords(code) { return }
            self.withConnection { $0.stopSending(self.stream, code) }
            self.done()
        case .refused, .over: break
        }
    }

    /// As in TCP, the server gets what the client sent before its reset, and then the reset.
    private func waitsWithLastWords(_ code: StreamErrorCode) -> Bool {
        guard case .connecting = self.state, code == .tcpReset else { return false }
        self.isReset = self.isReset || self.withConnection { $0.hasBytes(self.stream) } ?? false
        return self.isReset
    }

    func streamEnded() { self.done() }
}

/// Before the bridge of a mirror's connection: throws away what the local server says, since another side answers the client. The
/// bridge reads on after each read, of 64 KiB at most, and passes ends and resets.
private final class DiscardedInput: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let input: UrgentInput

    init(_ input: UrgentInput) { self.input = input }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.input.forgetMarks() }
}
