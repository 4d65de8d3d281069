import Carriers
import InterceptProtocol
import NIOCore
import NIOPosix
import Tunnel

/// One client of an intercepted port, from its acceptance until it is decided whether the workspace or the original serves it.
///
/// ```
///   waiting ── answer 0 ─────────────▶ bridged to the stream (StreamBridge)
///      │  ├── answer 1 to 4 ─────────▶ passed on: dial the original ─▶ relayed (ChannelRelay)
///      │  ├── no answer, nothing sent ─▶ passed on
///      │  └── no answer, bytes sent ──▶ reset: no request runs twice
/// ```
///
/// Until the workspace answers, the client's bytes are kept, so that the original can get all of them after a refusal.
final class ClientConnection: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer

    private unowned let link: WorkspaceLink
    private let channel: any Channel
    private let stream: StreamID
    private let client: Client
    private var isWaiting = true
    private var kept: [ByteBuffer] = []
    private var keptBytes = 0
    /// False if there was no carrier, or the workspace was suspected, before any of the client's bytes were sent. Bytes
    /// that were never sent can still go to the original.
    private var sendsAtOnce = true
    private var hasSentBytes = false
    private var inputIsClosed = false
    private var timeout: Scheduled<Void>?

    /// Maximum kept for one client before the answer; beyond it the sidecar stops reading from the client.
    private static let keptAtMost = 64 * 1_024
    /// The same for all waiting clients together: a workspace that accepts streams but never answers can't fill the memory. †
    private static let keptByAll = 16 * 1_024 * 1_024
    private static let answerTimeout = TimeAmount.seconds(10)

    init(
        link: WorkspaceLink,
        client: Client,
        stream: StreamID
    ) {
        self.link = link
        self.channel = client.channel
        self.stream = stream
        self.client = client
    }

    func start() {
        self.timeout = self.channel.eventLoop.assumeIsolated().scheduleTask(in: Self.answerTimeout) { [weak self] in
            self?.noAnswer(code: .timedOut)
        }
        self.channel.read()
    }

    // MARK: The client

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        guard self.isWaiting else { return }
        let offset = UInt64(self.keptBytes)
        self.keptBytes += bytes.readableBytes
        // A small read must not keep alive the large buffer that it was read into.
        self.kept.append(bytes.readableBytes < 4_096 ? bytes.compacted : bytes)
        self.link.agent.keptBytes += bytes.readableBytes
        if !self.hasSentBytes, !self.link.isReachable { self.sendsAtOnce = false }
        guard self.sendsAtOnce else { return }
        self.hasSentBytes = true
        self.link.withConnection { _ = $0.write(bytes, at: offset, of: self.client.input, to: self.stream) }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard self.isWaiting, !self.inputIsClosed else { return }
        if self.keptBytes < Self.keptAtMost, self.link.agent.keptBytes < Self.keptByAll { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event else { return context.fireUserInboundEventTriggered(event) }
        self.inputIsClosed = true
        if self.isWaiting, self.sendsAtOnce { self.link.withConnection { $0.finish(self.stream) } }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func channelInactive(context: ChannelHandlerContext) {
        guard self.isWaiting else { return }
        // The client has closed its connection, so the workspace's answer no longer matters.
        self.giveUpStream(.tcpReset)
        self.end()
    }

    // MARK: The answer

    private func answered(_ byte: UInt8) {
        switch Answer(rawValue: byte) {
        case .connected: self.bridge()
        case .refused, .unmapped, .timedOut, .other: self.handBack()
        case .none:
            // Not a valid answer: the workspace may or may not have passed the bytes on, so the original must not get them.
            self.giveUpStream(.tcpReset)
            self.resetClient()
        }
    }

    private func bridge() {
        self.stopWaiting()
        if !self.sendsAtOnce { self.sendKept() }
        self.kept = []
        let link = self.link
        let stream = self.stream
        let early = UInt64(self.keptBytes)
        let bridge = StreamBridge(
            link.access,
            stream: stream,
            channel: self.channel,
            keepAlive: link.agent.keepAlive,
            input: self.client.input,
            inputIsClosed: self.inputIsClosed
        ) { bridge in
            link.bytesIn += bridge.bytesToStream + early
            link.bytesOut += bridge.bytesFromStream
            link.streamIsDone(stream)
            link.agent.clientIsDone()
        }
        do {
            try self.channel.pipeline.syncOperations.addHandler(bridge)
        } catch {
            // The channel is already closing; `channelInactive` does the rest.
            return self.channel.closeWithReset()
        }
        link.setOwner(.bridged(bridge), of: stream)
        self.channel.pipeline.syncOperations.removeHandler(self, promise: nil)
        bridge.start()
    }

    /// The workspace can't serve the client and promises that no server has seen a byte: the original gets all of them.
    private func handBack() {
        let isFinished = self.link.withConnection { connection -> Bool in
            connection.reset(self.stream, .handedToOriginal)
            // The workspace's FIN comes with its answer; if it hasn't, the workspace is told to stop sending.
            return connection.read(self.stream) == .end
        }
        if isFinished != true { self.link.withConnection { $0.stopSending(self.stream, .handedToOriginal) } }
        self.passOn()
    }

    /// No answer came in time, or the workspace is gone.
    private func noAnswer(code: StreamErrorCode) {
        guard self.isWaiting else { return }
        self.giveUpStream(code)
        if self.hasSentBytes { self.resetClient() } else { self.passOn() }
    }

    /// There is a carrier again and the workspace responds: the bytes that were held back are sent.
    func workspaceIsBack() {
        guard self.isWaiting, !self.sendsAtOnce else { return }
        self.sendsAtOnce = true
        self.hasSentBytes = !self.kept.isEmpty
        self.sendKept()
    }

    private func sendKept() {
        self.link.withConnection { connection in
            var offset: UInt64 = 0
            for bytes in self.kept {
                connection.write(bytes, at: offset, of: self.client.input, to: self.stream)
                offset += UInt64(bytes.readableBytes)
            }
            if self.inputIsClosed { connection.finish(self.stream) }
        }
    }

    /// The workspace is gone (PROTOCOL, liveness): stop waiting for its answer.
    func workspaceIsGone() { self.noAnswer(code: .timedOut) }

    /// The drain time is over, or the agent is shutting down.
    func abandon(_ code: StreamErrorCode) {
        guard self.isWaiting else { return }
        self.giveUpStream(code)
        self.resetClient()
    }

    // MARK: Ways out

    private func passOn() {
        self.stopWaiting()
        self.link.streamIsDone(self.stream)
        let kept = self.kept
        self.kept = []
        self.link.agent.passOn(
            self.client,
            firstBytes: kept,
            inputIsClosed: self.inputIsClosed,
            countedFor: self.link
        )
        self.channel.pipeline.syncOperations.removeHandler(self, promise: nil)
    }

    private func giveUpStream(_ code: StreamErrorCode) {
        self.link.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
    }

    private func resetClient() {
        self.end()
        self.channel.closeWithReset()
    }

    private func end() {
        guard self.isWaiting else { return }
        self.stopWaiting()
        self.kept = []
        self.link.streamIsDone(self.stream)
        self.link.agent.clientIsDone()
    }

    private func stopWaiting() {
        self.isWaiting = false
        self.timeout?.cancel()
        self.link.agent.keptBytes -= self.keptBytes
    }
}

extension ClientConnection: StreamOwner {
    func streamIsReadable() {
        guard self.isWaiting else { return }
        switch self.link.withConnection({ $0.read(self.stream, atMost: 1) }) ?? .nothing {
        case .bytes(let bytes):
            if let answer: UInt8 = bytes.getInteger(at: bytes.readerIndex) { self.answered(answer) }
        case .end: self.streamWasReset(.tcpReset)
        case .nothing: break
        }
    }

    func streamIsWritable() {}

    /// Before the answer, a reset means that the workspace doesn't know what became of the client's bytes.
    func streamWasReset(_ code: StreamErrorCode) {
        guard self.isWaiting else { return }
        self.giveUpStream(.tcpReset)
        self.resetClient()
    }

    func streamWasStopped(_ code: StreamErrorCode) { self.streamWasReset(code) }

    func streamEnded() { self.noAnswer(code: .timedOut) }
}

extension ByteBuffer {
    /// A copy in a buffer of its own.
    fileprivate var compacted: ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(self.readableBytes)
        copy.writeImmutableBuffer(self)
        return copy
    }
}
