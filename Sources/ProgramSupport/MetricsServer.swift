public import NIOCore
import NIOHTTP1
import NIOPosix

/// Serves `GET /metrics` only: one answer a connection, with limits on what any client can cost.
public enum MetricsServer {
    /// Enough for a scraper or two.
    static let connectionsAtMost = 16
    /// The time from accepting a connection to closing it; a client can't prolong it by sending bytes.
    static let connectionLifetime = TimeAmount.seconds(10)

    /// - Precondition: called on `eventLoop`.
    /// - Parameters:
    ///   - socket: a socket that listens there already, if given.
    ///   - metrics: called on `eventLoop` for each scrape.
    /// - Returns: the listening address.
    public static func start(
        host: String,
        port: Int,
        socket: CInt? = nil,
        on eventLoop: any EventLoop,
        _ metrics: @escaping () -> [Metric]
    ) -> EventLoopFuture<SocketAddress?> {
        Self.listen(host: host, port: port, socket: socket, on: eventLoop, lifetime: Self.connectionLifetime, metrics)
            .map(\.localAddress)
    }

    static func listen(
        host: String,
        port: Int,
        socket: CInt? = nil,
        on eventLoop: any EventLoop,
        lifetime: TimeAmount,
        _ metrics: @escaping () -> [Metric]
    ) -> EventLoopFuture<any Channel> {
        let source = NIOLoopBound(metrics, eventLoop: eventLoop)
        let open = NIOLoopBoundBox(0, eventLoop: eventLoop)
        let bootstrap = ServerBootstrap(group: eventLoop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard open.value < Self.connectionsAtMost else { throw TooManyConnections() }
                    open.value += 1
                    channel.closeFuture.whenComplete { _ in open.value -= 1 }
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(
                        withPipeliningAssistance: false,
                        withEncoderConfiguration: .init(),
                        withDecoderLimitConfiguration: Self.limits
                    )
                    try channel.pipeline.syncOperations.addHandler(
                        MetricsHandler(source.value, lifetime: lifetime)
                    )
                }
            }
        return socket.map { bootstrap.withBoundSocket($0) } ?? bootstrap.bind(host: host, port: port)
    }

    /// The limits of a request; beyond them the answer is 400.
    private static var limits: NIOHTTPDecoderLimitConfiguration {
        var limits = NIOHTTPDecoderLimitConfiguration()
        limits.maxHeaderFieldSize = 4 * 1_024
        limits.maxHeaderListSize = 16 * 1_024
        limits.maxHeaderFieldCount = 64
        return limits
    }

    private struct TooManyConnections: Error {}
}

private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let metrics: () -> [Metric]
    private let lifetime: TimeAmount
    private var request: HTTPRequestHead?
    private var hasAnswered = false
    private var deadline: Scheduled<Void>?

    init(_ metrics: @escaping () -> [Metric], lifetime: TimeAmount) {
        self.metrics = metrics
        self.lifetime = lifetime
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        self.deadline = context.eventLoop.assumeIsolated().scheduleTask(in: self.lifetime) {
            channel.close(promise: nil)
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.deadline?.cancel() }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.hasAnswered else { return }
        switch Self.unwrapInboundIn(data) {
        case .head(let head): self.request = head
        case .body: break
        case .end: if let request = self.request { self.answer(request, context) }
        }
    }

    private func answer(_ request: HTTPRequestHead, _ context: ChannelHandlerContext) {
        self.hasAnswered = true
        var headers = HTTPHeaders()
        var body = ByteBuffer()
        let status: HTTPResponseStatus
        if request.uri.prefix(while: { $0 != "?" }) != "/metrics" {
            status = .notFound
        } else if request.method != .GET && request.method != .HEAD {
            status = .methodNotAllowed
            headers.add(name: "allow", value: "GET, HEAD")
        } else {
            status = .ok
            headers.add(name: "content-type", value: "text/plain; version=0.0.4; charset=utf-8")
            body.writeString(Metric.render(self.metrics()))
        }
        headers.add(name: "content-length", value: "\(body.readableBytes)")
        headers.add(name: "connection", value: "close")
        let head = HTTPResponseHead(version: request.version, status: status, headers: headers)
        context.write(Self.wrapOutboundOut(.head(head)), promise: nil)
        if request.method != .HEAD { context.write(Self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        let channel = context.channel
        context.writeAndFlush(Self.wrapOutboundOut(.end(nil))).assumeIsolated().whenComplete { _ in
            channel.close(promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
