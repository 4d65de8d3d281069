import NIOCore

/// Reads the first bytes from a client at the node's own address, to recognise health probes before the client is routed.
///
/// ```
///   says a probe's words, or leaves without a word ──▶ .probe
///   says anything else, or nothing for a while ──────▶ .other: as any client
///   breaks off ──────────────────────────────────────▶ .gone
/// ```
final class ProbeDetector: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    enum Finding {
        // The callback adds handlers to the pipeline, which then get what the client has sent.
        case probe
        case other
        case gone
    }

    private let channel: any Channel
    private let onFinding: (Finding) -> Void
    private var said = ByteBuffer()
    private var inputIsClosed = false
    private var isDone = false
    private var timeout: Scheduled<Void>?

    /// A probe sends at once; a client that waits for the server's greeting isn't one.
    static let patience = TimeAmount.milliseconds(200)

    init(channel: any Channel, onFinding: @escaping (Finding) -> Void) {
        self.channel = channel
        self.onFinding = onFinding
    }

    func start() {
        self.timeout = self.channel.eventLoop.assumeIsolated().scheduleTask(in: Self.patience) { [weak self] in
            self?.is(.other)
        }
        self.channel.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return context.fireChannelRead(data) }
        self.said.writeImmutableBuffer(Self.unwrapInboundIn(data))
        switch ProbeSignature.of(self.said.readableBytesView) {
        case .isProbe: self.is(.probe)
        case .isOther: self.is(.other)
        case .needsMore: break
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard !self.isDone else { return context.fireChannelReadComplete() }
        if !self.inputIsClosed { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard !self.isDone, case ChannelEvent.inputClosed = event else {
            return context.fireUserInboundEventTriggered(event)
        }
        self.inputIsClosed = true
        // The client only connected: a probe of TCP alone.
        self.is(self.said.readableBytes == 0 ? .probe : .other)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func channelInactive(context: ChannelHandlerContext) {
        guard self.finish() else { return context.fireChannelInactive() }
        self.onFinding(.gone)
    }

    private func `is`(_ finding: Finding) {
        guard self.finish() else { return }
        guard let context = try? self.channel.pipeline.syncOperations.context(handler: self) else {
            return self.onFinding(.gone)
        }
        self.onFinding(finding)
        if self.said.readableBytes > 0 {
            context.fireChannelRead(Self.wrapInboundOut(self.said))
            context.fireChannelReadComplete()
        }
        if self.inputIsClosed { context.fireUserInboundEventTriggered(ChannelEvent.inputClosed) }
        self.channel.pipeline.syncOperations.removeHandler(self, promise: nil)
    }

    /// False if a finding was reported before.
    private func finish() -> Bool {
        guard !self.isDone else { return false }
        self.isDone = true
        self.timeout?.cancel()
        return true
    }
}
