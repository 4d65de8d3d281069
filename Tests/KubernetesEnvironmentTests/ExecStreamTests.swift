import HostSupport
import NIOCore
import NIOEmbedded
import NIOWebSocket
import Testing

@testable import KubernetesEnvironment

/// The exec protocol's messages, without a network.
struct ExecStreamTests {
    /// The channel, and what the handler behind the stream has seen.
    private final class Behind: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        var seen: [String] = []

        func channelActive(context: ChannelHandlerContext) { self.seen.append("active") }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            self.seen.append(String(buffer: Self.unwrapInboundIn(data)))
        }
        func channelInactive(context: ChannelHandlerContext) { self.seen.append("inactive") }
    }

    private final class Stage {
        let channel = EmbeddedChannel()
        let behind = Behind()
        let stream: ExecStream
        var overs = 0

        init() throws {
            var over: () -> Void = {}
            self.stream = ExecStream(onOver: { over() })
            try self.channel.connect(to: .init(unixDomainSocketPath: "/none")).wait()
            try self.channel.pipeline.syncOperations.addHandlers([self.stream, self.behind])
            over = { [unowned self] in self.overs += 1 }
        }

        func receive(_ opcode: WebSocketOpcode, _ bytes: [UInt8], fin: Bool = true) throws {
            try self.channel.writeInbound(WebSocketFrame(fin: fin, opcode: opcode, data: ByteBuffer(bytes: bytes)))
        }

        func receive(_ number: UInt8, _ text: String) throws { try self.receive(.binary, [number] + Array(text.utf8)) }

        /// What was sent: each message's opcode and bytes.
        func sent() throws -> [(WebSocketOpcode, [UInt8])] {
            var all: [(WebSocketOpcode, [UInt8])] = []
            while let frame = try self.channel.readOutbound(as: WebSocketFrame.self) {
                #expect(frame.fin && frame.maskKey != nil)
                all.append((frame.opcode, Array(buffer: frame.data)))
            }
            return all
        }
    }

    @Test("Output comes as bytes once the stream has begun; errors and the end are kept apart")
    func inbound() throws {
        let stage = try Stage()
        try stage.receive(1, "")
        try stage.receive(1, "one")
        #expect(stage.behind.seen.isEmpty)
        stage.stream.begin()
        #expect(stage.behind.seen == ["active", "one"])
        try stage.receive(2, "oops\n")
        try stage.receive(7, "of a stream that there isn't")
        try stage.receive(.binary, [])
        try stage.receive(.text, Array("text".utf8))
        try stage.receive(.binary, [1] + Array("tw".utf8), fin: false)
        try stage.receive(.continuation, Array("o".utf8))
        #expect(stage.behind.seen == ["active", "one", "tw", "o"])
        try stage.receive(3, #"{"metadata":{},"status":"Success"}"#)
        #expect(stage.stream.programEnd == .init(code: 0, message: ""))
        try stage.receive(.connectionClose, [3, 232])
        #expect(stage.behind.seen.last == "inactive" && stage.overs == 1 && stage.stream.isOver)
    }

    @Test("Input goes out in messages of at most 32 KiB, each with its number; a ping is answered")
    func outbound() throws {
        let stage = try Stage()
        stage.stream.begin()
        let bytes = (0..<70_000).map { UInt8(truncatingIfNeeded: $0) }
        try stage.channel.writeOutbound(ByteBuffer(bytes: bytes))
        let sent = try stage.sent()
        #expect(sent.map(\.1.count) == [32_769, 32_769, 4_465])
        #expect(sent.allSatisfy { $0.0 == .binary && $0.1.first == 0 })
        #expect(sent.flatMap { $0.1.dropFirst() } == bytes)
        try stage.receive(.ping, [1, 2])
        let pong = try stage.sent()
        #expect(pong.count == 1 && pong.first?.0 == .pong && pong.first?.1 == [1, 2])
    }

    @Test(
        "The reason of its end is what the API server says, and the program's last line",
        arguments: [
            (nil, "", "lost its connection to the API server"),
            (#"{"status":"Success"}"#, "", "ended with code 0"),
            (
                #"{"status":"Failure","message":"command terminated with exit code 1","reason":"NonZeroExitCode","details":"#
                    + #"{"causes":[{"reason":"ExitCode","message":"1"}]}}"#,
                "one\nkl-sidecar: no sidecar runs here\n", "ended with code 1: kl-sidecar: no sidecar runs here"
            ),
            (
                #"{"status":"Failure","message":"container not found (\"x\")","code":500}"#, "",
                "ended: container not found (\"x\")"
            ),
            ("not JSON", "", "lost its connection to the API server"),
        ] as [(String?, String, String)]
    )
    func reasons(end: String?, errors: String, expected: String) throws {
        let stage = try Stage()
        stage.stream.begin()
        try stage.receive(2, errors)
        if let end { try stage.receive(3, end) }
        var told: [String] = []
        stage.stream.end(after: .zero) { told.append($0) }
        #expect(told.isEmpty)
        stage.channel.embeddedEventLoop.run()
        #expect(told == [expected] && stage.overs == 1)
        stage.stream.end(after: .seconds(1)) { told.append($0) }
        #expect(told == [expected, expected])
    }

    @Test("A flood of errors is bounded")
    func flood() throws {
        let stage = try Stage()
        stage.stream.begin()
        for _ in 0..<100 { try stage.receive(2, String(repeating: "x", count: 10_000)) }
        #expect(stage.stream.errors.count <= 16 * 1_024)
    }
}
