import NIOCore
import NIOPosix
import RawSockets
import Testing

@testable import Carriers

/// Two real sockets tied to each other: a client that is passed on, and the original.
@Suite struct ChannelRelayTests {
    /// Sendable, since futures carry it. Unchecked is safe: it is used on the event loop alone.
    private final class Stage: @unchecked Sendable {
        let client: any Channel
        let relay: ChannelRelay
        var timesDone = 0

        init(_ client: any Channel, firstBytes: [ByteBuffer]) throws {
            self.client = client
            let told = Told()
            let rounds = KeepAliveRounds(on: client.eventLoop)
            self.relay = ChannelRelay(client: client, memory: RelayMemory(), keepAlive: rounds, firstBytes: firstBytes)
            {
                told.stage?.timesDone += 1
            }
            told.stage = self
            try client.pipeline.syncOperations.addHandler(self.relay)
            client.read()
        }

        private final class Told { weak var stage: Stage? }
    }

    private let loop = MultiThreadedEventLoopGroup.singleton.next()

    private func dial(_ listener: RawListener) throws -> EventLoopFuture<any Channel> {
        try DialTarget(host: "127.0.0.1", port: listener.port).connect(on: self.loop, timeout: .seconds(10))
    }

    private func start(
        firstBytes: [ByteBuffer] = [],
        receiveBuffer: CInt? = nil
    ) async throws -> (Stage, RawSocket) {
        let listener = try #require(RawListener(receiveBuffer: receiveBuffer))
        let stage = try await self.dial(listener).flatMapThrowing { try Stage($0, firstBytes: firstBytes) }.get()
        return (stage, await listener.accept())
    }

    private func join(_ stage: Stage) async throws -> RawSocket {
        let listener = try #require(RawListener())
        try await self.dial(listener).map { stage.relay.join($0) }.get()
        return await listener.accept()
    }

    private func isDone(_ stage: Stage) async throws -> Int {
        for _ in 0..<12_000 {
            let times = try await self.loop.submit { stage.timesDone }.get()
            if times > 0 { return times }
            try await Task.sleep(for: .milliseconds(5))
        }
        return 0
    }

    @Test func bytesAndEndsPassBothWays() async throws {
        let (stage, client) = try await self.start()
        let original = try await self.join(stage)
        #expect(await client.say("question"))
        #expect(await original.hear(8) == "question")
        client.finish()
        #expect(await original.hearAll() == ["", "end"])
        #expect(await original.say("answer"))
        original.finish()
        #expect(await client.hearAll() == ["answer", "end"])
        #expect(try await self.isDone(stage) == 1)
    }

    @Test func whatCameBeforeTheOriginalWasThereComesFirst() async throws {
        let (stage, client) = try await self.start(firstBytes: [ByteBuffer(string: "one, ")])
        #expect(await client.say("two"))
        client.finish()
        let original = try await self.join(stage)
        #expect(await original.hearAll() == ["one, two", "end"])
    }

    @Test func aResetComesBehindTheBytesBeforeIt() async throws {
        let (stage, client) = try await self.start(receiveBuffer: 4_096)
        let original = try await self.join(stage)
        let sentence = String(repeating: "x", count: 50_000)
        #expect(await original.say(sentence))
        // The relay reads it, a part in each turn of the loop.
        for _ in 0..<100 { try await self.loop.submit {}.get() }
        original.reset()
        #expect(await client.hearAll() == [sentence, "reset"])
        #expect(try await self.isDone(stage) == 1)
    }

    @Test func aClientThatIsGoneBeforeTheOriginalIsThereIsStillHeard() async throws {
        let (stage, client) = try await self.start(firstBytes: [ByteBuffer(string: "last words")])
        client.reset()
        try await stage.client.closeFuture.get()
        // Its descriptor is free, and the original's isn't yet: it counts until that is closed, too.
        #expect(try await self.loop.submit { stage.timesDone }.get() == 0)
        let original = try await self.join(stage)
        #expect(await original.hearAll() == ["last words", "reset"])
        #expect(try await self.isDone(stage) == 1)
    }

    @Test func withoutAnOriginalTheClientIsReset() async throws {
        let (stage, client) = try await self.start()
        try await self.loop.submit { stage.relay.refuse() }.get()
        #expect(await client.hearAll() == ["", "reset"])
        #expect(try await self.isDone(stage) == 1)
    }
}
