import Carriers
import NIOCore

/// Gives everything that a client sends to its copies, before any other handler gets it. Nothing waits for them.
///
/// It stands before the handler that passes the client on, and stays there when another takes that one's place: when the workspace
/// that has the port refuses the client, and the original gets it.
final class MirrorTap<Access: ConnectionAccess>: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer

    private var copies: [MirrorCopy<Access>]
    /// The client has had our FIN.
    private var outputIsClosed = false

    init(_ copies: [MirrorCopy<Access>]) { self.copies = copies }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        for copy in self.copies { copy.take(bytes) }
        context.fireChannelRead(data)
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
            // Not by the client, unless its FIN has come.
            if case .all = mode { self.end(.reset) }
            return context.close(mode: mode, promise: promise)
        }
        let promise = promise ?? context.eventLoop.makePromise()
        promise.futureResult.assumeIsolated().whenSuccess { self.outputIsClosed = true }
        context.close(mode: mode, promise: promise)
    }

    private func end(_ ending: MirrorCopy<Access>.Ending) {
        let copies = self.copies
        self.copies = []
        for copy in copies { copy.end(ending) }
    }
}
