import FoundationEssentials
import Libc
public import NIOCore
import NIOPosix

/// The server's end: on an event loop, with a callback for each line.
public final class JSONLinesServer<Request: Decodable & SendableMetatype, Reply: Encodable & SendableMetatype> {
    public final class Connection {
        let channel: any Channel
        /// The client's user.
        public let user: UInt32
        /// Called on the event loop when the client has closed, or sends no more.
        public var onClose: (() -> Void)?
        /// A request is in progress or its result is being sent, so this connection isn't closed in favour of a new one.
        public var isWaiting = false

        init(channel: any Channel, user: UInt32) {
            self.channel = channel
            self.user = user
        }

        /// False while the client reads slower than the server writes.
        public var isWritable: Bool { self.channel.isWritable }

        public func send(_ reply: Reply) {
            guard let data = try? JSONEncoder().encode(reply) else { return }
            var bytes = ByteBuffer(bytes: data)
            bytes.writeInteger(UInt8(ascii: "\n"))
            self.channel.writeAndFlush(bytes, promise: nil)
        }

        /// Closes the connection after everything sent is written.
        public func close() {
            let channel = self.channel
            channel.writeAndFlush(ByteBuffer()).whenComplete { _ in channel.close(promise: nil) }
        }
    }

    private let eventLoop: any EventLoop
    private let isStranger: ((LocalPeer) -> Bool)?
    private let mayConnect: (UInt32) -> Bool
    private let onConnect: (Connection) -> Void
    private let onRequest: (Request, Connection) -> Void
    private var listener: (any Channel)?
    private let connectionsAtMost: Int
    private let lifetime: TimeAmount?
    /// In the order of their last requests, or of connecting if they have sent none.
    private var handlers: [LineHandler] = []

    /// - Parameters:
    ///   - connectionsAtMost: beyond it, a new connection replaces the one that has gone longest without a request and isn't
    ///     waiting; if all are waiting, the new one is closed.
    ///   - lifetime: how long a connection may last; nil: any time.
    ///   - isStranger: decides about each connection first: a stranger's is closed at once, and takes no other connection's
    ///     place.
    ///   - mayConnect: whether this user may connect; otherwise the connection is closed without an answer.
    ///   - onRequest: called for each request; a line that can't be decoded closes the connection instead.
    public init(
        eventLoop: any EventLoop,
        connectionsAtMost: Int = 64,
        lifetime: TimeAmount? = nil,
        isStranger: ((LocalPeer) -> Bool)? = nil,
        mayConnect: @escaping (UInt32) -> Bool,
        onConnect: @escaping (Connection) -> Void,
        onRequest: @escaping (Request, Connection) -> Void
    ) {
        self.eventLoop = eventLoop
        self.connectionsAtMost = connectionsAtMost
        self.lifetime = lifetime
        self.isStranger = isStranger
        self.mayConnect = mayConnect
        self.onConnect = onConnect
        self.onRequest = onRequest
    }

    /// - Parameter descriptor: a socket of `LocalSocket.listen`; it is closed with the server.
    public func start(on descriptor: CInt) -> EventLoopFuture<Void> {
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return ServerBootstrap(group: self.eventLoop)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(LineHandler(server: this.value))
                }
            }
            .withBoundSocket(descriptor)
            .map { this.value.listener = $0 }
    }

    public func close() { self.listener?.close(promise: nil) }

    private func connected(_ channel: any Channel, user: UInt32) -> Connection? {
        guard self.mayConnect(user) else { return nil }
        let connection = Connection(channel: channel, user: user)
        self.onConnect(connection)
        return connection
    }

    private final class LineHandler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let server: JSONLinesServer
        private var connection: Connection?
        private var buffer = ByteBuffer()
        private var hasEnded = false
        private var channel: (any Channel)?
        private var end: Scheduled<Void>?

        init(server: JSONLinesServer) { self.server = server }

        func channelActive(context: ChannelHandlerContext) {
            let channel = context.channel
            guard !self.isStranger(context) else { return context.close(promise: nil) }
            if self.server.handlers.count >= self.server.connectionsAtMost {
                guard let longest = self.server.handlers.first(where: { $0.connection?.isWaiting != true }) else {
                    return context.close(promise: nil)
                }
                longest.giveWay()
            }
            self.channel = channel
            self.server.handlers.append(self)
            self.end = self.server.lifetime.map {
                context.eventLoop.assumeIsolated().scheduleTask(in: $0) { channel.close(promise: nil) }
            }
            guard let provider = channel as? any SocketOptionProvider else { return context.close(promise: nil) }
            let credentials: EventLoopFuture<LocalSocket.Credentials> = provider.unsafeGetSocketOption(
                level: .socket,
                name: .init(rawValue: SO_PEERCRED)
            )
            credentials.assumeIsolated().whenComplete { result in
                guard case .success(let credentials) = result,
                    let connection = self.server.connected(channel, user: credentials.user)
                else { return channel.close(promise: nil) }
                self.connection = connection
                self.takeLines()
                if self.hasEnded { connection.onClose?() }
            }
        }

        private func isStranger(_ context: ChannelHandlerContext) -> Bool {
            guard let isStranger = self.server.isStranger else { return false }
            let answer = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: CInt.self) {
                LocalPeer(of: $0).map(isStranger)
            }
            return (answer ?? nil) ?? true
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = self.unwrapInboundIn(data)
            self.buffer.writeBuffer(&bytes)
            guard self.buffer.readableBytes <= JSONLines.maxRequest else { return context.close(promise: nil) }
            self.takeLines()
        }

        private func takeLines() {
            guard let connection = self.connection else { return }
            // While the client doesn't read its answers, no more requests are read: the answers would pile up here.
            while connection.channel.isWritable,
                let end = self.buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\n"))
            {
                let count = end - self.buffer.readerIndex
                let line = self.buffer.readBytes(length: count) ?? []
                self.buffer.moveReaderIndex(forwardBy: 1)
                guard let request = try? JSONDecoder().decode(Request.self, from: Data(line)) else {
                    return connection.channel.close(promise: nil)
                }
                self.becomeLast()
                self.server.onRequest(request, connection)
            }
            self.buffer.discardReadBytes()
        }

        func channelWritabilityChanged(context: ChannelHandlerContext) {
            context.channel.setOption(.autoRead, value: context.channel.isWritable).whenFailure { _ in }
            self.takeLines()
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case ChannelEvent.inputClosed = event { self.ended() }
        }

        func channelInactive(context: ChannelHandlerContext) {
            self.leave()
            self.ended()
        }

        /// Closes this connection in favour of a new one.
        private func giveWay() {
            let channel = self.channel
            self.leave()
            channel?.close(promise: nil)
        }

        private func leave() {
            self.end?.cancel()
            self.end = nil
            self.channel = nil
            self.server.handlers.removeAll { $0 === self }
        }

        private func becomeLast() {
            // A connection that has given way is no longer in the list.
            guard let index = self.server.handlers.firstIndex(where: { $0 === self }) else { return }
            self.server.handlers.append(self.server.handlers.remove(at: index))
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

        private func ended() {
            guard !self.hasEnded else { return }
            self.hasEnded = true
            self.connection?.onClose?()
        }
    }
}

enum JSONLines {
    /// Requests are small; no valid client sends a longer line.
    static let maxRequest = 262_144
}
