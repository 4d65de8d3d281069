import HostSupport
import InterceptModel
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOWebSocket

/// Runs a program in a container, by a WebSocket to the API server through `kubectl proxy`.
///
/// Measured with kubectl 1.37.1 and server 1.36.2: 49 ms where a `kubectl exec` takes 90; a hundred at a time add 8 MB to the proxy,
/// whereas each `kubectl exec` has 52 MB.
struct ExecRequest: Sendable {
    var pod: String
    var container: String
    var command: [String]
    var hasInput: Bool

    /// † For the connection, the API server's and the kubelet's answer.
    static let opensWithin = TimeAmount.seconds(8)
    private static let answerAtMost = 16 * 1_024

    func target(in namespace: String) -> String {
        var query = [("container", self.container), ("stdout", "true"), ("stderr", "true")]
        if self.hasInput { query.append(("stdin", "true")) }
        query += self.command.map { ("command", $0) }
        return APIConversation.Request("/api/v1/namespaces/\(namespace)/pods/\(self.pod)/exec", query).target
    }

    /// Its failure's reason where the API server is too old.
    static let isOld = "Old"

    /// The same for `kubectl`.
    var kubectlWords: [String] {
        ["exec"] + (self.hasInput ? ["--stdin"] : [])
            + ["pod/\(self.pod)", "--container=\(self.container)", "--"] + self.command
    }

    /// Opens it on this event loop.
    ///
    /// - Parameters:
    ///   - socket: the proxy's.
    ///   - attach: adds the handlers that read and write the program's output and input; the channel becomes active to them.
    ///   - speaks: called once: the program has said something or was silent for `opensWithin`, it couldn't be opened, or has ended.
    ///   - failed: called if it can't be opened; then `attach` isn't called.
    ///   - over: called once nothing is open any more, in both cases.
    func open(
        at socket: String,
        namespace: String,
        on eventLoop: any EventLoop,
        attach: @escaping (any Channel, ExecStream) throws -> Void,
        speaks: @escaping () -> Void = {},
        failed: @escaping (APIFailure) -> Void,
        over: @escaping () -> Void
    ) {
        eventLoop.preconditionInEventLoop()
        let attempt = Attempt(attach: attach, speaks: speaks, failed: failed, over: over)
        let bound = NIOLoopBound(attempt, eventLoop: eventLoop)
        var headers: HTTPHeaders = ["host": "localhost", "sec-websocket-protocol": ExecStream.subprotocol]
        headers.add(name: "content-length", value: "0")
        let head = HTTPRequestHead(
            version: .http1_1,
            method: .GET,
            uri: self.target(in: namespace),
            headers: headers
        )
        let upgrader = NIOTypedWebSocketClientUpgrader<Void>(maxFrameSize: ExecStream.frameAtMost) { channel, answer in
            channel.eventLoop.makeCompletedFuture { try bound.value.opened(channel, answer) }
        }
        let upgrade = NIOTypedHTTPClientUpgradeConfiguration<Void>(
            upgradeRequestHead: head,
            upgraders: [upgrader],
            notUpgradingCompletionHandler: { channel in
                channel.eventLoop.makeCompletedFuture {
                    let reader = RefusalReader(limit: Self.answerAtMost) { bound.value.fail($0) }
                    try channel.pipeline.syncOperations.addHandler(reader)
                }
            }
        )
        var pipeline = NIOUpgradableHTTPClientPipelineConfiguration(upgradeConfiguration: upgrade)
        pipeline.leftOverBytesStrategy = .forwardBytes
        let configuration = pipeline
        ClientBootstrap(group: eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    bound.value.channel = channel
                    _ = try channel.pipeline.syncOperations.configureUpgradableHTTPClientPipeline(
                        configuration: configuration
                    )
                }
            }
            .connect(unixDomainSocketPath: socket)
            .assumeIsolated()
            .whenComplete { result in
                switch result {
                case .success(let channel):
                    channel.closeFuture.assumeIsolated().whenComplete { _ in bound.value.fail(.cut) }
                case .failure: bound.value.fail(.cut)
                }
            }
        eventLoop.assumeIsolated().scheduleTask(in: Self.opensWithin) {
            bound.value.spoke()
            bound.value.fail(.late("no program was started within \(Self.opensWithin.nanoseconds / 1_000_000_000) s"))
        }
    }

    /// One attempt to open it, on its event loop.
    private final class Attempt {
        var channel: (any Channel)?
        private var attach: ((any Channel, ExecStream) throws -> Void)?
        private var speaks: (() -> Void)?
        private var failed: ((APIFailure) -> Void)?
        private let over: () -> Void

        init(
            attach: @escaping (any Channel, ExecStream) throws -> Void,
            speaks: @escaping () -> Void,
            failed: @escaping (APIFailure) -> Void,
            over: @escaping () -> Void
        ) {
            self.attach = attach
            self.speaks = speaks
            self.failed = failed
            self.over = over
        }

        /// The HTTP handlers have gone, and WebSocket's are there.
        func opened(_ channel: any Channel, _ answer: HTTPResponseHead) throws {
            guard let attach = self.attach else { throw APIFailure.cut }
            guard answer.headers.first(name: "sec-websocket-protocol") == ExecStream.subprotocol else {
                return self.fail(
                    APIFailure(
                        code: 0,
                        reason: ExecRequest.isOld,
                        message: "it doesn't speak \(ExecStream.subprotocol)"
                    )
                )
            }
            let stream = ExecStream(onSpeaking: { self.spoke() }, onOver: self.over)
            try channel.pipeline.syncOperations.addHandler(stream)
            self.attach = nil
            self.failed = nil
            do {
                try attach(channel, stream)
                // Not before NIO's upgrade handler has gone, which lets nothing be written.
                channel.eventLoop.assumeIsolated().execute { stream.begin() }
            } catch {
                channel.close(promise: nil)
            }
        }

        func fail(_ failure: APIFailure) {
            guard let failed = self.failed else { return }
            self.attach = nil
            self.failed = nil
            self.channel?.close(promise: nil)
            failed(failure)
            self.spoke()
            self.over()
        }

        func spoke() {
            let speaks = self.speaks
            self.speaks = nil
            speaks?()
        }
    }
}

/// Reads the answer of an API server that opens no WebSocket: it says why.
private final class RefusalReader: ChannelInboundHandler {
    typealias InboundIn = HTTPClientResponsePart
    private let limit: Int
    private let refused: (APIFailure) -> Void
    private var answer: APIConversation.Answer?

    init(limit: Int, _ refused: @escaping (APIFailure) -> Void) {
        self.limit = limit
        self.refused = refused
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch Self.unwrapInboundIn(data) {
        case .head(let head): self.answer = APIConversation.Answer(head)
        case .body(let bytes):
            let room = self.limit - (self.answer?.body.count ?? 0)
            self.answer?.body += bytes.readableBytesView.prefix(max(0, room))
        case .end: self.refused(self.answer.map { APIFailure($0) } ?? .cut)
        }
    }
}
