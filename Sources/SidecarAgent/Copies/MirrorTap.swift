import Carriers
import NIOCore

/// Gives everything that a client sends to its copies, before any other handler gets it. No handler waits for a copy.
///
/// The tap stands before the handler that passes the client on, and stays there when that handler is replaced: when the
/// workspace that intercepts the port refuses the client, and the original gets it.
final class MirrorTap<Access: ConnectionAccess>: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer

    private var copies: [MirrorCopy<Access>]
    /// What the client has said until it is known whether it is a probe. Nil: that is known, or doesn't matter.
    private var undecided: Undecided?
    /// The client has had our FIN.
    private var outputIsClosed = false

    private struct Undecided {
        var said = ByteBuffer()
        var begin: () -> [MirrorCopy<Access>]
        var timeout: Scheduled<Void>
    }

    init(_ copies: [MirrorCopy<Access>]) { self.copies = copies }

    /// Begins further copies once the client's first bytes, or that there are none for a while, show that it isn't a probe. Their
    /// sides don't know when a client connects, so only they wait.
    func waitForFirstBytes(on eventLoop: any EventLoop, begin: @escaping () -> [MirrorCopy<Access>]) {
        let timeout: Scheduled<Void> = eventLoop.assumeIsolated().scheduleTask(in: ProbeDetector.patience) {
            [weak self] in
            self?.decide(isProbe: false)
        }
        self.undecided = Undecided(begin: begin, timeout: timeout)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        for copy in self.copies { copy.take(bytes) }
        if self.undecided != nil { self.note(bytes) }
        context.fireChannelRead(data)
    }

    /// At most `ProbeSignature.bytesAtMost` bytes wait for others.
    private func note(_ bytes: ByteBuffer) {
        self.undecided?.said.writeImmutableBuffer(bytes)
        guard let said = self.undecided?.said else { return }
        switch ProbeSignature.of(said.readableBytesView) {
        case .isProbe: self.decide(isProbe: true)
        case .isOther: self.decide(isProbe: false)
        case .needsMore, .awaitsSettings: break
        }
    }

    private func decide(isProbe: Bool) {
        guard let undecided = self.undecided else { return }
        self.undecided = nil
        undecided.timeout.cancel()
        guard !isProbe else { return }
        let begun = undecided.begin()
        for copy in begun { copy.take(undecided.said) }
        self.copies += begun
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { self.end(.fin) }
        context.fireUserInboundEventTriggered(event)
    }

    /// The client's reset, or another error, each of which ends the connection.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end(.reset)
        context.fireErrorCaught(error)
    }

    func channelInactive(context: ChannelHandlerContext) {
        // If the output was closed before, NIO reports the end of the input only by this call.
        self.end(self.outputIsClosed ? .fin : .reset)
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.leave() }

    /// The client has no pipeline any more.
    func leave() { self.end(.reset) }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard case .output = mode else {
            // This close isn't the client's, unless its FIN has come.
            if case .all = mode { self.end(.reset) }
            return context.close(mode: mode, promise: promise)
        }
        let promise = promise ?? context.eventLoop.makePromise()
        promise.futureResult.assumeIsolated().whenSuccess { self.outputIsClosed = true }
        context.close(mode: mode, promise: promise)
    }

    private func end(_ ending: MirrorCopy<Access>.Ending) {
        // A client that only connected is a probe of TCP alone.
        if let said = self.undecided?.said { self.decide(isProbe: said.readableBytes == 0) }
        let copies = self.copies
        self.copies = []
        for copy in copies { copy.end(ending) }
    }
}
