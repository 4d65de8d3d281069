public import NIOCore
import NIOHTTP1
import NIOPosix

/// One measurement for a scrape.
public struct Metric: Sendable {
    public enum Kind: String, Sendable {
        case counter
        case gauge
    }

    public var name: String
    public var help: String
    public var kind: Kind
    /// Label and value, where a metric has one for each of several things.
    public var values: [(labels: [(String, String)], value: Double)]

    public init(_ name: String, _ kind: Kind, _ help: String, _ value: Double) {
        self.init(name, kind, help, [([], value)])
    }

    public init(_ name: String, _ kind: Kind, _ help: String, _ values: [(labels: [(String, String)], value: Double)]) {
        self.name = name
        self.kind = kind
        self.help = help
        self.values = values
    }

    /// Prometheus' text format, 0.0.4.
    public static func render(_ metrics: [Metric]) -> String {
        var text = ""
        for metric in metrics {
            text += "# HELP \(metric.name) \(metric.help)\n# TYPE \(metric.name) \(metric.kind.rawValue)\n"
            for (labels, value) in metric.values {
                let pairs = labels.map { "\($0.0)=\"\($0.1)\"" }.joined(separator: ",")
                text += metric.name + (pairs.isEmpty ? "" : "{\(pairs)}") + " \(Self.number(value))\n"
            }
        }
        return text
    }

    private static func number(_ value: Double) -> String {
        value == value.rounded() && abs(value) < 9e15 ? "\(Int64(value))" : "\(value)"
    }
}

/// Serves `GET /metrics`, and nothing else.
public enum MetricsServer {
    public static func start(
        host: String,
        port: Int,
        on eventLoop: any EventLoop,
        _ metrics: @escaping () -> [Metric]
    ) -> EventLoopFuture<SocketAddress?> {
        let source = NIOLoopBound(metrics, eventLoop: eventLoop)
        let open = NIOLoopBoundBox(0, eventLoop: eventLoop)
        return ServerBootstrap(group: eventLoop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    // A scraper or two is all that is expected.
                    guard open.value < 16 else { return channel.close(promise: nil) }
                    open.value += 1
                    channel.closeFuture.whenComplete { _ in open.value -= 1 }
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(IdleStateHandler(allTimeout: .seconds(10)))
                    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false, withErrorHandling: true)
                    try pipeline.addHandler(MetricsHandler(source.value))
                }
            }
            .bind(host: host, port: port)
            .map(\.localAddress)
    }
}

private final class MetricsHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let metrics: () -> [Metric]
    private var request: HTTPRequestHead?

    init(_ metrics: @escaping () -> [Metric]) { self.metrics = metrics }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch Self.unwrapInboundIn(data) {
        case .head(let head): self.request = head
        case .body: break
        case .end: self.answer(context)
        }
    }

    private func answer(_ context: ChannelHandlerContext) {
        guard let request = self.request else { return }
        let path = request.uri.prefix { $0 != "?" }
        var body = ByteBuffer()
        let status: HTTPResponseStatus
        if path != "/metrics" {
            status = .notFound
        } else if request.method != .GET && request.method != .HEAD {
            status = .methodNotAllowed
        } else {
            status = .ok
            body.writeString(Metric.render(self.metrics()))
        }
        var head = HTTPResponseHead(version: request.version, status: status)
        head.headers.add(name: "content-length", value: "\(body.readableBytes)")
        head.headers.add(name: "content-type", value: "text/plain; version=0.0.4; charset=utf-8")
        head.headers.add(name: "connection", value: "close")
        context.write(Self.wrapOutboundOut(.head(head)), promise: nil)
        if request.method != .HEAD { context.write(Self.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
        let channel = context.channel
        context.writeAndFlush(Self.wrapOutboundOut(.end(nil))).assumeIsolated().whenComplete { _ in
            channel.close(promise: nil)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
