public import NIOCore

/// Ties two sockets together without a tunnel: the way to the original service.
///
/// Two of these, one in each pipeline. Like `StreamBridge`: half-close, reset and back-pressure pass through, and the
/// channels need `autoRead` off and `allowRemoteHalfClosure` on.
///
/// The client's half is in its pipeline before the other socket exists: NIO reads on its own when a socket's end comes,
/// and what it reads then must not be lost.
public final class ChannelRelay: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private let channel: any Channel
    private var partner: ChannelRelay?
    private var early: [ByteBuffer]
    private var inputIsClosed: Bool
    private var outputIsClosing = false
    /// All that was written, and the end behind it, is out.
    private var outputIsClosed = false
    private var isOver = false
    private var wasJoined = false
    private var onDone: (() -> Void)?

    /// - Parameters:
    ///   - firstBytes: what was read of the client before.
    ///   - inputIsClosed: whether its end was seen as well.
    public init(
        client: any Channel,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        onDone: @escaping () -> Void
    ) {
        self.channel = client
        self.early = firstBytes
        self.inputIsClosed = inputIsClosed
        self.onDone = onDone
    }

    private init(server: any Channel) {
        self.channel = server
        self.early = []
        self.inputIsClosed = false
    }

    /// The other socket is there.
    public func join(_ server: any Channel) {
        let back = ChannelRelay(server: server)
        guard !self.isOver, (try? server.pipeline.syncOperations.addHandler(back)) != nil else {
            return server.close(promise: nil)
        }
        self.partner = back
        self.wasJoined = true
        back.partner = self
        for bytes in self.early { server.write(bytes, promise: nil) }
        self.early = []
        server.flush()
        if self.inputIsClosed { back.closeOutput() } else if server.isWritable { self.channel.read() }
        server.read()
        if !server.isActive { back.end() }
    }

    /// There will be no other socket: the client gets what it would have got there.
    public func refuse() { self.end() }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        if let partner = self.partner {
            partner.channel.write(bytes, promise: nil)
        } else if !self.isOver, !self.wasJoined {
            self.early.append(bytes)
        }
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        guard let partner = self.partner else { return }
        partner.channel.flush()
        if partner.channel.isWritable, !self.inputIsClosed { context.read() }
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        guard context.channel.isWritable, let partner = self.partner, !partner.inputIsClosed else { return }
        partner.channel.read()
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event else { return context.fireUserInboundEventTriggered(event) }
        guard !self.inputIsClosed else { return }
        self.inputIsClosed = true
        self.partner?.closeOutput()
        self.endIfDone()
    }

    /// Behind everything written: NIO closes the output once all of it is out.
    private func closeOutput() {
        guard !self.outputIsClosing else { return }
        self.outputIsClosing = true
        self.channel.flush()
        self.channel.closeOutputWhenWritten().assumeIsolated().whenComplete { result in
            if case .success = result { self.outputIsClosed = true }
            self.endIfDone()
        }
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) { self.end() }

    public func channelInactive(context: ChannelHandlerContext) {
        // NIO tells the second of two ends by this alone: the input's when the output was closed before, or the
        // output's when the input was. What broke, `errorCaught` has told before.
        if self.outputIsClosed, !self.inputIsClosed {
            self.inputIsClosed = true
            self.partner?.closeOutput()
        }
        if self.inputIsClosed, self.outputIsClosing { self.outputIsClosed = true }
        self.end()
    }

    /// Both directions of this socket have ended as they should. The other one closes when its own have.
    private func endIfDone() {
        if self.inputIsClosed, self.outputIsClosed { self.end() }
    }

    /// Ends this socket, and, where it hadn't ended properly, the other one too: both by a reset.
    private func end() {
        guard !self.isOver else { return }
        self.isOver = true
        let isProper = self.inputIsClosed && self.outputIsClosed
        let partner = self.partner
        self.partner = nil
        partner?.partner = nil
        self.early = []
        if isProper { self.channel.close(promise: nil) } else { self.channel.closeWithReset() }
        let onDone = self.onDone
        self.onDone = nil
        if !isProper { partner?.end() }
        onDone?()
    }
}
