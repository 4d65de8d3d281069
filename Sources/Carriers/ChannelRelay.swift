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
    private var outputIsClosed = false
    private var isOver = false
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
        } else if !self.isOver {
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
    }

    /// Behind everything written: NIO closes the output once all of it is out.
    private func closeOutput() {
        guard !self.outputIsClosed else { return }
        self.outputIsClosed = true
        self.channel.flush()
        self.channel.close(mode: .output).assumeIsolated().whenComplete { _ in
            if self.inputIsClosed, self.partner?.outputIsClosed ?? true { self.end() }
        }
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) { self.end() }

    public func channelInactive(context: ChannelHandlerContext) { self.end() }

    /// Ends both sockets. Where both directions had not ended properly, both clients see a reset, as they would have.
    private func end() {
        guard !self.isOver else { return }
        self.isOver = true
        let isProper = self.inputIsClosed && self.outputIsClosed
        let partner = self.partner
        self.partner = nil
        self.early = []
        if isProper { self.channel.close(promise: nil) } else { self.channel.closeWithReset() }
        let onDone = self.onDone
        self.onDone = nil
        if let partner {
            // The other half's last bytes may still be on their way out: it closes when its own output has.
            if !isProper || partner.outputIsClosed { partner.end() }
        }
        onDone?()
    }
}
