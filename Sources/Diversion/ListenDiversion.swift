public import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Diversion without privilege: the sidecar owns the public port from the start, and the service listens on another one.
///
/// Channels are handed over before anything is read of them, with `autoRead` off: who gets them decides where they go.
public final class ListenDiversion {
    let eventLoop: any EventLoop
    private var listeners: [any Channel] = []
    private var datagramListeners: [DatagramListener] = []
    private var isPaused = false
    private let prepare: @Sendable (any Channel) -> Void

    /// - Parameter prepare: sets the options of a listening socket, which those of its clients inherit.
    public init(eventLoop: any EventLoop, prepare: @escaping @Sendable (any Channel) -> Void) {
        self.eventLoop = eventLoop
        self.prepare = prepare
    }

    /// Where a service port is listened on.
    public enum Source: Sendable {
        case address(host: String, port: Int)
        /// A socket that listens already, and was opened by someone else; closed with the others.
        case socket(CInt)
    }

    /// Listens on one service port. `accept` is called on the event loop for each client.
    public func listen(
        on source: Source,
        accept: @escaping (any Channel) -> Void
    ) -> EventLoopFuture<SocketAddress?> {
        let accepting = NIOLoopBound(accept, eventLoop: self.eventLoop)
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        let prepare = self.prepare
        let bootstrap = ServerBootstrap(group: self.eventLoop)
            .serverChannelInitializer { channel in
                prepare(channel)
                return channel.eventLoop.makeSucceededVoidFuture()
            }
            .serverChannelOption(.backlog, value: Self.backlog)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.autoRead, value: false)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelOption(.writeBufferWaterMark, value: .init(low: 64 * 1_024, high: 256 * 1_024))
            .childChannelInitializer { channel in
                // Connections that were in the queue of a socket before it was handed over have inherited nothing.
                if case .socket = source { prepare(channel) }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptHandler(accepting.value))
                }
            }
        let bound =
            switch source {
            case .address(let host, let port): bootstrap.bind(host: host, port: port)
            case .socket(let descriptor): bootstrap.withBoundSocket(descriptor)
            }
        return bound.map { channel in
            // NIO has called listen(2) again, with a backlog of 128.
            if case .socket(let descriptor) = source { _ = systemListen(descriptor, Self.backlog) }
            this.value.listeners.append(channel)
            return channel.localAddress
        }
    }

    /// Clients that wait in the kernel for this process, or for the one that comes after it.
    private static let backlog: CInt = 4_096

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

    func keep(_ listener: DatagramListener) { self.datagramListeners.append(listener) }

    public func close() {
        for listener in self.listeners { listener.close(promise: nil) }
        self.listeners.removeAll()
        for listener in self.datagramListeners { listener.close() }
        self.datagramListeners.removeAll()
    }
}

/// `listen` is a method's name above.
private func systemListen(_ descriptor: CInt, _ backlog: CInt) -> CInt { listen(descriptor, backlog) }

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
