import Libc
public import NIOCore
import NIOPosix

/// Diversion without privileges: the sidecar owns the public port from the start, and the service listens on another one.
///
/// Channels are passed on before anything is read from them, with `autoRead` off, so that the receiver decides where the
/// bytes go.
public final class ListenDiversion {
    let eventLoop: any EventLoop
    private var listeners: [any Channel] = []
    private var datagramListeners: [DatagramListener] = []
    private var isPaused = false
    private let prepare: @Sendable (any Channel) -> Void
    private let setUp: @Sendable (any Channel) throws -> Void

    /// - Parameters:
    ///   - prepare: sets options on a listening socket, which accepted sockets inherit.
    ///   - setUp: sets the channel options of what was accepted, before anything is read.
    public init(
        eventLoop: any EventLoop,
        prepare: @escaping @Sendable (any Channel) -> Void,
        setUp: @escaping @Sendable (any Channel) throws -> Void
    ) {
        self.eventLoop = eventLoop
        self.prepare = prepare
        self.setUp = setUp
    }

    /// Where to listen for a service port.
    public enum Source: Sendable {
        case address(host: String, port: Int)
        /// A socket that is bound or listening already; it is closed with the others.
        case socket(CInt)
    }

    /// Listens for one service port. `accept` is called on the event loop for each client.
    public func listen(
        on source: Source,
        accept: @escaping (any Channel) -> Void
    ) -> EventLoopFuture<SocketAddress?> {
        let accepting = NIOLoopBound(accept, eventLoop: self.eventLoop)
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        let (prepare, setUp) = (self.prepare, self.setUp)
        let bootstrap = ServerBootstrap(group: self.eventLoop)
            .serverChannelInitializer { channel in
                prepare(channel)
                return channel.eventLoop.makeSucceededVoidFuture()
            }
            .serverChannelOption(.backlog, value: Self.backlog)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                // Connections queued on the socket before it was handed over have inherited no options.
                if case .socket = source { prepare(channel) }
                return channel.eventLoop.makeCompletedFuture {
                    try setUp(channel)
                    try channel.pipeline.syncOperations.addHandler(AcceptHandler(accepting.value))
                }
            }
        let bound =
            switch source {
            case .address(let host, let port): bootstrap.bind(host: host, port: port)
            case .socket(let descriptor): bootstrap.withBoundSocket(descriptor)
            }
        return bound.map { channel in
            // NIO has called listen(2) again, with a backlog of 128; restore ours.
            if case .socket(let descriptor) = source { _ = systemListen(descriptor, Self.backlog) }
            this.value.listeners.append(channel)
            return channel.localAddress
        }
    }

    /// Clients that can wait in the kernel for this process, or for its successor.
    private static let backlog: CInt = 4_096

    /// Leaves new connections in the kernel's queue: each accepted client may need a descriptor to reach the original, so
    /// some must stay free.
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

/// Passes the channel on once it is active, and removes itself.
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
