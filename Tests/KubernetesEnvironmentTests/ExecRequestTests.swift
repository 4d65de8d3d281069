import Libc
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOWebSocket
import Testing

@testable import KubernetesEnvironment

/// A request to run a program, over a real socket, with a server that stands for `kubectl proxy`.
struct ExecRequestTests {
    private static let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
    private let request = ExecRequest(
        pod: "web-1",
        container: "kl-sidecar-1",
        command: ["/kl-sidecar", "holders", "a b"],
        hasInput: true
    )

    @Test("The target names each word of the command")
    func target() {
        #expect(
            self.request.target(in: "shop")
                == "/api/v1/namespaces/shop/pods/web-1/exec?container=kl-sidecar-1&stdout=true"
                + "&stderr=true&stdin=true&command=%2Fkl-sidecar&command=holders&command=a%20b"
        )
    }

    @Test("What is written comes back from a program that says what it is told")
    func echo() async throws {
        let server = try await Server(subprotocol: ExecStream.subprotocol)
        let outcome = try await self.open(at: server.path)
        #expect(outcome == .said("hello"))
        try await server.close()
    }

    @Test("A server of an older protocol is refused")
    func older() async throws {
        let server = try await Server(subprotocol: "v4.channel.k8s.io")
        let outcome = try await self.open(at: server.path)
        #expect(outcome == .failed(APIFailure(code: 0, reason: "Old", message: "it doesn't speak v5.channel.k8s.io")))
        try await server.close()
    }

    @Test("A refusal comes with the API server's words")
    func refusal() async throws {
        let body = #"{"kind":"Status","status":"Failure","message":"no right","reason":"Forbidden","code":403}"#
        let server = try await Server(
            saying: "HTTP/1.1 403 Forbidden\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)"
        )
        let outcome = try await self.open(at: server.path)
        #expect(outcome == .failed(APIFailure(code: 403, reason: "Forbidden", message: "no right")))
        try await server.close()
    }

    @Test(
        "A server that isn't there, ends, or talks nonsense is a failure",
        arguments: ["", "nonsense\r\n\r\n", "HTTP/1.1 101 Switching\r\n\r\n"]
    )
    func nonsense(said: String) async throws {
        let server = try await Server(saying: said)
        #expect(try await self.open(at: server.path) == .failed(.cut))
        try await server.close()
        #expect(try await self.open(at: server.path) == .failed(.cut))
    }

    // MARK: Stage

    private enum Outcome: Equatable, Sendable {
        case said(String)
        case failed(APIFailure)
    }

    /// Writes "hello" once it is open; returns what comes back first, after all is over.
    private func open(at socket: String) async throws -> Outcome {
        let outcome = Self.eventLoop.makePromise(of: Outcome.self)
        let over = Self.eventLoop.makePromise(of: Void.self)
        let request = self.request
        Self.eventLoop.execute {
            request.open(
                at: socket,
                namespace: "shop",
                on: Self.eventLoop,
                attach: { channel, _ in
                    let talker = Talker { outcome.succeed(.said($0)) }
                    try channel.pipeline.syncOperations.addHandler(talker)
                },
                failed: { outcome.succeed(.failed($0)) },
                over: { over.succeed() }
            )
        }
        try await over.futureResult.get()
        return try await outcome.futureResult.get()
    }

    private final class Talker: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        private let said: (String) -> Void

        init(_ said: @escaping (String) -> Void) { self.said = said }

        func channelActive(context: ChannelHandlerContext) {
            context.writeAndFlush(Self.wrapOutboundOut(ByteBuffer(string: "hello")), promise: nil)
        }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.said(String(buffer: Self.unwrapInboundIn(data)))
            context.close(promise: nil)
        }
    }

    /// On a Unix socket in a folder of its own.
    private struct Server {
        let path: String
        private let channel: any Channel

        private static func path() throws -> String {
            var name = Array("/tmp/kl-exec-XXXXXX".utf8CString)
            let made = name.withUnsafeMutableBufferPointer { $0.baseAddress.map { mkdtemp($0) != nil } ?? false }
            try #require(made)
            return String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) + "/api"
        }

        /// Says back on standard output what comes on standard input.
        init(subprotocol: String) async throws {
            let path = try Self.path()
            self.path = path
            self.channel = try await Self.bootstrap { channel in
                let upgrader = NIOWebSocketServerUpgrader(
                    shouldUpgrade: { channel, head in
                        let isRight = head.headers.first(name: "sec-websocket-protocol") == ExecStream.subprotocol
                        return channel.eventLoop.makeSucceededFuture(
                            isRight ? ["sec-websocket-protocol": subprotocol] : nil
                        )
                    },
                    upgradePipelineHandler: { channel, _ in channel.pipeline.addHandler(Echo()) }
                )
                return channel.pipeline.configureHTTPServerPipeline(
                    withServerUpgrade: (upgraders: [upgrader], completionHandler: { _ in })
                )
            }
            .bind(unixDomainSocketPath: path).get()
        }

        /// Answers whatever it is asked with these bytes, and closes.
        init(saying text: String) async throws {
            let path = try Self.path()
            self.path = path
            self.channel = try await Self.bootstrap { $0.pipeline.addHandler(Sayer(text)) }
                .bind(unixDomainSocketPath: path).get()
        }

        private static func bootstrap(
            _ initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
        ) -> ServerBootstrap {
            ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton).childChannelInitializer(initializer)
        }

        func close() async throws {
            try await self.channel.close()
            unlink(self.path)
            rmdir(String(self.path.dropLast("/api".count)))
        }
    }

    private final class Echo: ChannelInboundHandler, Sendable {
        typealias InboundIn = WebSocketFrame
        typealias OutboundOut = WebSocketFrame

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let frame = Self.unwrapInboundIn(data)
            var bytes = frame.unmaskedData
            guard frame.opcode == .binary, bytes.readInteger(as: UInt8.self) == 0 else { return }
            var answer = ByteBuffer(bytes: [1])
            answer.writeBuffer(&bytes)
            let reply = WebSocketFrame(fin: true, opcode: .binary, data: answer)
            context.writeAndFlush(Self.wrapOutboundOut(reply), promise: nil)
        }
    }

    private final class Sayer: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        private let text: String

        init(_ text: String) { self.text = text }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let channel = context.channel
            context.writeAndFlush(Self.wrapOutboundOut(ByteBuffer(string: self.text))).whenComplete { _ in
                channel.close(promise: nil)
            }
        }
    }
}
