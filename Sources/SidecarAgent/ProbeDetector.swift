import NIOCore

/// Reads the first bytes from a client at the node's own address, to recognise health probes before the client is routed.
///
/// ```
///   says a probe's words, or leaves without a word ──▶ .probe
///   says anything else, or nothing for a while ──────▶ .other: as any client
///   breaks off ──────────────────────────────────────▶ .gone
///   waits for an HTTP/2 server's settings ───────────▶ gets empty ones, and then says one of these
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
    private var greetingTimer: Scheduled<Void>?
    private var greeting: SettingsGreeting?

    /// A probe sends at once; a client that waits for the server's greeting isn't one.
    static let patience = TimeAmount.milliseconds(200)
    /// † How long an HTTP/2 client that doesn't go on counts as one that may still do so by itself.
    private static let greetAfter = TimeAmount.milliseconds(10)
    /// † For what a client sends that has got settings. One that says nothing then has nothing to ask yet.
    private static let patienceAfterGreeting = TimeAmount.seconds(5)

    init(channel: any Channel, onFinding: @escaping (Finding) -> Void) {
        self.channel = channel
        self.onFinding = onFinding
    }

    func start() {
        self.wait(Self.patience)
        self.channel.read()
    }

    private func wait(_ time: TimeAmount) {
        self.timeout?.cancel()
        self.timeout = self.channel.eventLoop.assumeIsolated().scheduleTask(in: time) { [weak self] in
            self?.is(.other)
        }
    }

    /// The client may wait for a server's settings.
    private func greetSoon() {
        guard self.greeting == nil, self.greetingTimer == nil else { return }
        self.greetingTimer = self.channel.eventLoop.assumeIsolated().scheduleTask(in: Self.greetAfter) { [weak self] in
            guard let self, !self.isDone else { return }
            self.greeting = SettingsGreeting()
            self.channel.writeAndFlush(ByteBuffer(bytes: SettingsGreeting.frame), promise: nil)
            self.wait(Self.patienceAfterGreeting)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone else { return self.pass(Self.unwrapInboundIn(data), context) }
        self.said.writeImmutableBuffer(Self.unwrapInboundIn(data))
        switch ProbeSignature.of(self.said.readableBytesView) {
        case .isProbe: self.is(.probe)
        case .isOther: self.is(.other)
        case .awaitsSettings: self.greetSoon()
        case .needsMore:
            self.greetingTimer?.cancel()
            self.greetingTimer = nil
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard !self.isDone else { return context.fireChannelReadComplete() }
        if !self.inputIsClosed { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event else { return context.fireUserInboundEventTriggered(event) }
        guard !self.isDone else {
            self.passRest(context)
            return context.fireUserInboundEventTriggered(event)
        }
        self.inputIsClosed = true
        // The client only connected: a probe of TCP alone.
        self.is(self.said.readableBytes == 0 ? .probe : .other)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func channelInactive(context: ChannelHandlerContext) {
        guard self.finish() else {
            self.passRest(context)
            return context.fireChannelInactive()
        }
        self.onFinding(.gone)
    }

    private func `is`(_ finding: Finding) {
        guard self.finish() else { return }
        guard let context = try? self.channel.pipeline.syncOperations.context(handler: self) else {
            return self.onFinding(.gone)
        }
        self.onFinding(finding)
        if self.said.readableBytes > 0 {
            self.pass(self.said, context)
            context.fireChannelReadComplete()
        }
        if self.inputIsClosed {
            self.passRest(context)
            context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        }
        self.said = ByteBuffer()
        if self.greeting == nil { self.channel.pipeline.syncOperations.removeHandler(self, promise: nil) }
    }

    /// Passes on what the client has sent, without the acknowledgement of the sidecar's own settings. Until that has come, this stays
    /// in the pipeline.
    private func pass(_ bytes: ByteBuffer, _ context: ChannelHandlerContext) {
        guard let passed = self.greeting?.take(bytes) else {
            return context.fireChannelRead(Self.wrapInboundOut(bytes))
        }
        if passed.readableBytes > 0 { context.fireChannelRead(Self.wrapInboundOut(passed)) }
        guard self.greeting?.isAcknowledged ?? false else { return }
        self.greeting = nil
        // Otherwise `is` does it.
        if self.said.readableBytes == 0 { self.channel.pipeline.syncOperations.removeHandler(self, promise: nil) }
    }

    private func passRest(_ context: ChannelHandlerContext) {
        guard let rest = self.greeting?.takeRest(), rest.readableBytes > 0 else { return }
        context.fireChannelRead(Self.wrapInboundOut(rest))
    }

    /// False if a finding was reported before.
    private func finish() -> Bool {
        guard !self.isDone else { return false }
        self.isDone = true
        self.timeout?.cancel()
        self.greetingTimer?.cancel()
        return true
    }
}
