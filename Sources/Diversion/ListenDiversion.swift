public import NIOCore
import NIOPosix

/// Diversion without privilege: the sidecar owns the public port from the start, and the service listens on another one.
///
/// Channels are handed over before anything is read of them, with `autoRead` off: who gets them decides where they go.
public final class ListenDiversion {
    private let eventLoop: any EventLoop
    private var listeners: [any Channel] = []
    private var isPaused = false

    public init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// Listens on one service port. `accept` is called on the event loop for each client.
    public func listen(
        host: String,
        port: Int,
        accept: @escaping (any Channel) -> Void
    ) -> EventLoopFuture<SocketAddress?> {
        let accepting = NIOLoopBound(accept, eventLoop: self.eventLoop)
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return ServerBootstrap(group: self.eventLoop)
            .serverChannelOption(.backlog, value: 4_096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelOption(.writeBufferWaterMark, value: .init(low: 64 * 1_024, high: 256 * 1_024))
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        AcceptHandler(accepting.value)
                    )
                }
            }
            .bind(host: host, port: port)
            .map { channel in
                this.value.listeners.append(channel)
                return channel.localAddress
            }
    }

    /// Leaves new connections in the kernel's queue for a while: what is taken must be able to reach the original, and
    /// for that there must be descriptors left.
    public func pause(_ paused: Bool) {
        guard self.isPaused != paused else { return }
        self.isPaused = paused
        for listener in self.listeners {
            _ = listener.setOption(.autoRead, value: !paused)
            if !paused { listener.read() }
        }
    }

    public func close() {
        for listener in self.listeners { listener.close(promise: nil) }
        self.listeners.removeAll()
    }
}

/// Gives the channel away once it is active, and leaves.
private final class AcceptHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    private let accept: (any Channel) -> Void

    init(_ accept: @escaping (any Channel) -> Void) { self.accept = accept }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        self.accept(channel)
    }
}
