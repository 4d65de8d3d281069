import Libc
import NIOCore
import NIOPosix
import RawSockets
import Testing

@testable import Carriers

/// Urgent bytes of a real socket, found by their places.
@Suite struct UrgentInputTests {
    /// Keeps what is read, and takes it apart only at the end.
    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        let input: UrgentInput
        var read: [ByteBuffer] = []
        var places: [UInt64] = []
        private let ended: EventLoopPromise<String>

        init(_ input: UrgentInput, _ ended: EventLoopPromise<String>) {
            self.input = input
            self.ended = ended
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = Self.unwrapInboundIn(data)
            self.places.append(self.input.offset(ofNew: bytes))
            self.read.append(bytes)
        }

        func channelReadComplete(context: ChannelHandlerContext) { context.read() }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if case ChannelEvent.inputClosed = event { context.close(promise: nil) }
        }

        func channelInactive(context: ChannelHandlerContext) {
            var text: [String] = []
            var offset: UInt64 = 0
            for (bytes, place) in zip(self.read, self.places) {
                #expect(place == offset)
                self.input.forEachPiece(of: bytes, at: offset) { piece in
                    switch piece {
                    case .bytes(let bytes): text.append(String(buffer: bytes))
                    case .urgent(let byte): text.append("!" + String(decoding: [byte], as: UTF8.self))
                    }
                }
                offset += UInt64(bytes.readableBytes)
            }
            self.ended.succeed(text.joined(separator: "|"))
        }
    }

    private final class Weak: @unchecked Sendable {
        // Set on the event loop, and looked at after it.
        weak var input: UrgentInput?
    }

    private static func collect(on loop: any EventLoop, _ kept: Weak) async throws -> String {
        let listener = try #require(RawListener())
        let target = try DialTarget(host: "127.0.0.1", port: listener.port)
        let ended = loop.makePromise(of: String.self)
        try await target.connect(on: loop, timeout: .seconds(10)).flatMapThrowing { channel in
            let input = UrgentInput(channel)
            kept.input = input
            try channel.pipeline.syncOperations.addHandler(Collector(input, ended))
            channel.read()
        }.get()
        let peer = await listener.accept()
        #expect(await peer.say("ab"))
        #expect(await peer.say("u", CInt(MSG_OOB)))
        #expect(await peer.say("cd"))
        #expect(kept.input != nil)
        peer.finish()
        return try await ended.futureResult.get()
    }

    @Test func places() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let kept = Weak()
        #expect(try await Self.collect(on: loop, kept) == "ab|!u|cd")
        // The channel has it, and it must not have the channel.
        for _ in 0..<10_000 where kept.input != nil { try await loop.submit {}.get() }
        #expect(kept.input == nil)
    }

    /// The other way: where the socket has gone, whoever writes behind an urgent byte is told so, too.
    @Test func nothingWaitsForASocketThatHasGone() async throws {
        let listener = try #require(RawListener())
        let target = try DialTarget(host: "127.0.0.1", port: listener.port)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let told = try await target.connect(on: loop, timeout: .seconds(10)).flatMap { channel in
            channel.close().map { () -> [String] in
                var told: [String] = []
                let output = UrgentOutput(channel) { told.append("idle") }
                output.writeUrgent(1)
                let promise = loop.makePromise(of: Void.self)
                promise.futureResult.assumeIsolated().whenFailure { _ in told.append("failed") }
                output.write(ByteBuffer(string: "a"), promise: promise)
                #expect(!output.isBusy)
                return told
            }
        }.get()
        #expect(told == ["failed"])
    }
}
