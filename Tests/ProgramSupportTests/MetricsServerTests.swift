import NIOCore
import NIOPosix
import Testing

@testable import ProgramSupport

@Suite(.timeLimit(.minutes(10))) struct MetricsServerTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    /// Runs a server for as long as `body` needs it.
    private func withServer(
        lifetime: TimeAmount = MetricsServer.connectionLifetime,
        _ body: (SocketAddress) async throws -> Void
    ) async throws {
        let eventLoop = self.group.next()
        let server = try await eventLoop.flatSubmit {
            MetricsServer.listen(host: "127.0.0.1", port: 0, on: eventLoop, lifetime: lifetime) {
                [Metric("m", .gauge, "h", 7)]
            }
        }
        .get()
        do {
            try await body(try #require(server.localAddress))
        } catch {
            try? await server.close()
            throw error
        }
        try await server.close()
    }

    /// What comes until the server closes.
    private func talk(_ address: SocketAddress, _ pieces: String...) async throws -> String {
        let client = try await Client(address, self.group)
        for piece in pieces { try await client.say(piece) }
        return try await client.rest()
    }

    @Test func `a scrape`() async throws {
        try await withServer { address in
            let answer = try await talk(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n"))
            #expect(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"))
            #expect(answer.contains("content-length: 30\r\n"))
            #expect(answer.contains("connection: close\r\n"))
            #expect(answer.hasSuffix("\r\n\r\n# HELP m h\n# TYPE m gauge\nm 7\n"))
        }
    }

    @Test func `other ways to ask`() async throws {
        try await withServer { address in
            let head = try await talk(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(head.hasPrefix("HTTP/1.1 200 OK\r\n") && head.hasSuffix("\r\n\r\n"))
            let query = try await talk(address, "GET /met", "rics?a=b HTTP/1.0\r\n", "\r\n")
            #expect(query.hasPrefix("HTTP/1.0 200 OK\r\n") && query.hasSuffix("m 7\n"))
            let two = try await talk(
                address,
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            #expect(two.split(separator: "HTTP/1.1", omittingEmptySubsequences: false).count == 2)
        }
    }

    @Test(arguments: [
        "/", "/metrics/", "/metricsx", "/Metrics", "//metrics", "/metrics/../metrics", "http://x/metrics",
    ])
    func `not found`(path: String) async throws {
        try await withServer { address in
            let answer = try await talk(address, "GET \(path) HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(answer.hasPrefix("HTTP/1.1 404 Not Found\r\n"))
        }
    }

    @Test(arguments: ["POST", "PUT", "DELETE", "OPTIONS"]) func `not allowed`(method: String) async throws {
        try await withServer { address in
            let answer = try await talk(
                address,
                "\(method) /metrics HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc"
            )
            #expect(answer.hasPrefix("HTTP/1.1 405 Method Not Allowed\r\n"))
            #expect(answer.contains("allow: GET, HEAD\r\n"))
        }
    }

    @Test(arguments: [
        "hello\r\n\r\n", "GET /metrics HTTP/9.9\r\n\r\n", "GET /metrics\u{1}HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /metrics HTTP/1.1\r\na: \(String(repeating: "x", count: 5_000))",
        "GET /metrics?\(String(repeating: "x", count: 5_000))",
        "GET /metrics HTTP/1.1\r\n\(String(repeating: "a: b\r\n", count: 65))",
        "GET /metrics HTTP/1.1\r\n\(String(repeating: "a: \(String(repeating: "x", count: 1_000))\r\n", count: 20))",
    ])
    func `not HTTP, or too much of it`(request: String) async throws {
        try await withServer { address in
            let answer = try await talk(address, request)
            #expect(answer.hasPrefix("HTTP/1.1 400 Bad Request\r\n"), "\(request.prefix(40))")
        }
    }

    @Test func `at most so many at once, and room again when one has gone`() async throws {
        try await withServer { address in
            var idle: [Client] = []
            for _ in 0..<MetricsServer.connectionsAtMost { idle.append(try await Client(address, self.group)) }
            #expect(try await talk(address) == "")
            try await idle.removeLast().close()
            // The server may hear of it a little later.
            var answer = ""
            for _ in 0..<3_000 where answer.isEmpty {
                answer = (try? await talk(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")) ?? ""
                if answer.isEmpty { try await Task.sleep(for: .milliseconds(20)) }
            }
            #expect(answer.hasPrefix("HTTP/1.1 200 OK\r\n"))
            for client in idle { try await client.close() }
        }
    }

    /// Nothing said, half a request, or one that goes on for ever.
    @Test func `whoever takes too long is closed`() async throws {
        try await withServer(lifetime: .milliseconds(300)) { address in
            // A slow machine finds them closed before all is said: that is an empty answer, too.
            #expect(await (try? talk(address)) ?? "" == "")
            #expect(await (try? talk(address, "GET /metrics HT")) ?? "" == "")
            let client = try await Client(address, self.group)
            try? await client.say("POST /metrics HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            let talking = Task {
                while (try? await client.say("1\r\na\r\n")) != nil { try await Task.sleep(for: .milliseconds(20)) }
            }
            #expect(try await client.rest() == "")
            talking.cancel()
        }
    }
}

/// A connection that collects what it is told.
private struct Client {
    private let channel: any Channel
    private let told: EventLoopFuture<String>

    init(_ address: SocketAddress, _ group: any EventLoopGroup) async throws {
        let loop = group.next()
        let promise = loop.makePromise(of: String.self)
        self.told = promise.futureResult
        self.channel = try await ClientBootstrap(group: loop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Collector(promise))
                }
            }
            .connect(to: address).get()
    }

    func say(_ text: String) async throws { try await self.channel.writeAndFlush(ByteBuffer(string: text)) }

    func rest() async throws -> String { try await self.told.get() }

    func close() async throws { try await self.channel.close() }

    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let promise: EventLoopPromise<String>
        private var bytes = ByteBuffer()

        init(_ promise: EventLoopPromise<String>) { self.promise = promise }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var more = Self.unwrapInboundIn(data)
            self.bytes.writeBuffer(&more)
        }

        func channelInactive(context: ChannelHandlerContext) { self.promise.succeed(String(buffer: self.bytes)) }

        // A reset is an end as well.
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
