public import NIOCore

/// Ties two sockets together without a tunnel: the way to the original service.
///
/// Two of these, one in each pipeline. Like `StreamBridge`: half-close, reset and back-pressure pass through, and the
/// channels need `autoRead` off and `allowRemoteHalfClosure` on.
public final class ChannelRelay: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private let channel: any Channel
    private var partner: ChannelRelay?
    private var inputIsClosed: Bool
    private var outputIsClosed = false
    private var onDone: (() -> Void)?

    private init(_ channel: any Channel, inputIsClosed: Bool) {
        self.channel = channel
        self.inputIsClosed = inputIsClosed
    }

    /// Joins the two and begins. What was read of the first before goes out to the second first.
    public static func join(
        _ client: any Channel,
        _ server: any Channel,
        firstBytes: [ByteBuffer],
        inputIsClosed: Bool,
        onDone: @escaping () -> Void
    ) throws {
        let front = ChannelRelay(client, inputIsClosed: inputIsClosed)
        let back = ChannelRelay(server, inputIsClosed: false)
        front.partner = back
        back.partner = front
        front.onDone = onDone
        try client.pipeline.syncOperations.addHandler(front)
        try server.pipeline.syncOperations.addHandler(back)
        for bytes in firstBytes { server.write(bytes, promise: nil) }
        server.flush()
        if inputIsClosed { back.closeOutput() } else { client.read() }
        server.read()
        // Either may have gone while nobody watched.
        if !client.isActive { front.end(withReset: true) }
        if !server.isActive { back.end(withReset: true) }
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.partner?.channel.write(Self.unwrapInboundIn(data), promise: nil)
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

    private func closeOutput() {
        guard !self.outputIsClosed else { return }
        self.outputIsClosed = true
        self.channel.close(mode: .output).assumeIsolated().whenComplete { _ in
            if self.inputIsClosed { self.end(withReset: false) }
        }
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) { self.end(withReset: true) }

    public func channelInactive(context: ChannelHandlerContext) {
        self.end(withReset: !(self.inputIsClosed && self.outputIsClosed))
    }

    /// Closes both. A connection that ended before its time ends on the other side by a reset, as it did here.
    private func end(withReset: Bool) {
        guard let partner = self.partner else { return }
        self.partner = nil
        partner.partner = nil
        let bothEnded = self.inputIsClosed && partner.inputIsClosed
        if withReset && !bothEnded {
            partner.channel.closeWithReset()
            self.channel.closeWithReset()
        } else {
            // What was written and not yet sent still goes out: the output was closed behind it.
            self.channel.close(promise: nil)
            if bothEnded && partner.outputIsClosed { partner.channel.close(promise: nil) }
        }
        (self.onDone ?? partner.onDone)?()
        self.onDone = nil
        partner.onDone = nil
    }
}
