import NIOCore
import NIOEmbedded
import NIOPosix
import RawSockets
import Testing

@testable import Carriers
@testable import Tunnel

/// A real socket tied to a stream of a connection that has no peer: what comes on the stream is put there by the test.
@Suite struct BridgedSocketTests {
    /// Sendable, since futures carry it. Unchecked is safe: it is used on the event loop alone.
    private final class Stage: ConnectionAccess, @unchecked Sendable {
        private var connection: Connection
        let owners = StreamOwners()
        let id: StreamID
        var socket: BridgedSocket<Stage>?
        var timesDone = 0
        /// What a socket said that was refused.
        var early: EarlyBytes?
        let memory = EarlyMemory()
        var rounds: KeepAliveRounds?

        func ended(_ socket: Socket, _ end: Socket.End) {
            self.timesDone += 1
            if case .refused(let early) = end { self.early = early }
        }

        init() {
            var peer = TransportParameters(connectionID: ConnectionID(rawValue: 7))
            peer.initialMaxData = 1 << 24
            peer.initialMaxStreamData = 1 << 24
            peer.initialMaxStreams = 100
            peer.takesUrgent = true
            self.connection = Connection(
                role: .responder,
                id: ConnectionID(rawValue: 7),
                configuration: TunnelConfiguration(),
                peerParameters: peer,
                random: .system,
                at: Clock.now()
            )
            self.id = self.connection.openStream() ?? .control
        }

        func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? { body(&self.connection) }

        var stream: StreamState? { self.connection.streams.peek(self.id) }

        /// As if it had come from the peer.
        func comes(_ text: String, at offset: UInt64 = 0, fin: Bool = false) {
            #expect(throws: Never.self) {
                try self.connection.receiveStream(self.id, offset: offset, data: ByteBuffer(string: text), fin: fin)
            }
            self.socket?.streamIsReadable()
        }

        /// What the socket has said so far, in order.
        var said: UInt64 { self.stream?.sendBuffer.end ?? 0 }
    }

    private typealias Socket = BridgedSocket<Stage>

    private let loop = MultiThreadedEventLoopGroup.singleton.next()

    private func start(receiveBuffer: CInt? = nil) async throws -> (Stage, RawSocket) {
        let listener = try #require(RawListener(receiveBuffer: receiveBuffer))
        let loop = self.loop
        let stage = try await DialTarget(host: "127.0.0.1", port: listener.port)
            .connect(on: loop, timeout: .seconds(10))
            .flatMapThrowing { channel in
                let stage = Stage()
                let rounds = KeepAliveRounds(on: loop)
                let socket = BridgedSocket(stage, stream: stage.id, channel: channel, keepAlive: rounds) {
                    stage.ended($0, $1)
                }
                stage.socket = socket
                try channel.pipeline.syncOperations.addHandler(socket)
                socket.start()
                return stage
            }.get()
        return (stage, await listener.accept())
    }

    private func on(_ stage: Stage, _ body: @escaping @Sendable (Stage) -> Void) async throws {
        try await self.loop.submit { body(stage) }.get()
    }

    /// Looks until it is so, for a minute at most.
    private func becomes(_ stage: Stage, _ isSo: @escaping @Sendable (Stage) -> Bool) async throws -> Bool {
        for _ in 0..<12_000 {
            if try await self.loop.submit({ isSo(stage) }).get() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        return false
    }

    @Test func bytesAndEndsPassBothWays() async throws {
        let (stage, peer) = try await self.start()
        try await self.on(stage) { $0.comes("hello", fin: true) }
        #expect(await peer.hearAll() == ["hello", "end"])
        #expect(await peer.say("answer"))
        #expect(try await self.becomes(stage) { $0.said == 6 })
        try await self.on(stage) { #expect($0.timesDone == 0) }
        peer.finish()
        #expect(try await self.becomes(stage) { $0.timesDone == 1 })
        try await self.on(stage) { #expect($0.stream?.finIsQueued ?? false) }
    }

    @Test func theSocketsEndAloneEndsNothingElse() async throws {
        let (stage, peer) = try await self.start()
        peer.finish()
        #expect(try await self.becomes(stage) { $0.stream?.finIsQueued ?? false })
        try await self.on(stage) { $0.comes("still", fin: false) }
        #expect(await peer.hear(5) == "still")
        try await self.on(stage) { #expect($0.timesDone == 0) }
        try await self.on(stage) { $0.comes("", at: 5, fin: true) }
        #expect(await peer.hearAll() == ["", "end"])
        #expect(try await self.becomes(stage) { $0.timesDone == 1 })
    }

    @Test func aResetOfTheOtherSidesSocketComesBehindItsBytes() async throws {
        let (stage, peer) = try await self.start(receiveBuffer: 4_096)
        try await self.on(stage) {
            $0.comes(String(repeating: "x", count: 100_000))
            $0.socket?.streamWasReset(.tcpReset)
        }
        let heard = await peer.hearAll()
        #expect(heard[0].utf8.count == 100_000 && heard[1] == "reset")
        #expect(try await self.becomes(stage) { $0.timesDone == 1 && $0.stream?.resetSent?.code == 0 })
    }

    @Test(arguments: [StreamErrorCode.shuttingDown, .timedOut])
    func anyOtherResetIsOneAtOnce(_ code: StreamErrorCode) async throws {
        let (stage, peer) = try await self.start()
        try await self.on(stage) { $0.socket?.streamWasReset(code) }
        #expect(await peer.hearAll() == ["", "reset"])
        try await self.on(stage) { #expect($0.timesDone == 1) }
    }

    @Test func aResetOfTheSocketWaitsForWhatItHasSaid() async throws {
        let (stage, peer) = try await self.start()
        #expect(await peer.say("last words"))
        #expect(try await self.becomes(stage) { $0.said == 10 })
        peer.reset()
        #expect(try await self.becomes(stage) { $0.timesDone == 1 })
        try await self.on(stage) { stage in
            #expect(stage.stream?.resetSent == nil && stage.stream?.held.contains(.resetStream) ?? false)
        }
    }

    @Test func whatIsGivenUpIsResetAtBothEnds() async throws {
        let (stage, peer) = try await self.start()
        try await self.on(stage) { $0.socket?.abandon(.shuttingDown) }
        #expect(await peer.hearAll() == ["", "reset"])
        try await self.on(stage) { stage in
            #expect(stage.stream?.resetSent?.code == StreamErrorCode.shuttingDown.rawValue)
            #expect(stage.stream?.stopRequested == StreamErrorCode.shuttingDown.rawValue)
            // What still comes of it is heard by nobody.
            stage.socket?.streamEnded()
            stage.socket?.streamWasReset(.tcpReset)
            #expect(stage.timesDone == 1)
        }
    }

    // MARK: Before the answer

    /// There is no carrier, so bytes are held back.
    private func waiting() throws -> (Stage, EmbeddedChannel, EmbeddedEventLoop) {
        let loop = EmbeddedEventLoop()
        let channel = EmbeddedChannel(loop: loop)
        let stage = Stage()
        let rounds = KeepAliveRounds(on: loop)
        let socket = BridgedSocket(stage, stream: stage.id, channel: channel, keepAlive: rounds) {
            // As another handler does that takes the channel over.
            if case .refused = $1 { rounds.add(channel) }
            stage.ended($0, $1)
        }
        stage.rounds = rounds
        stage.socket = socket
        try channel.pipeline.syncOperations.addHandler(socket)
        channel.connect(to: try SocketAddress(unixDomainSocketPath: "/x"), promise: nil)
        socket.startWaiting(memory: stage.memory) { $0 == 0 ? .open : $0 == 1 ? .refused : .invalid }
        return (stage, channel, loop)
    }

    @Test func bytesThatWereHeldBackAreSentOnceThePeerIsBack() throws {
        let (stage, channel, loop) = try self.waiting()
        try channel.writeInbound(ByteBuffer(string: "held"))
        #expect(stage.said == 0 && stage.memory.used == 4)
        stage.socket?.peerIsBack()
        #expect(stage.said == 4)
        // A server may have them, so nobody else gets them.
        loop.advanceTime(by: .seconds(10))
        #expect(stage.timesDone == 1 && stage.early == nil && !channel.isActive)
        #expect(stage.stream?.resetSent?.code == StreamErrorCode.timedOut.rawValue && stage.memory.used == 0)
    }

    @Test func withoutAnAnswerTheCallerGetsBytesThatWereNeverSent() throws {
        let (stage, channel, loop) = try self.waiting()
        try channel.writeInbound(ByteBuffer(string: "held"))
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        loop.advanceTime(by: .seconds(9))
        #expect(stage.timesDone == 0)
        loop.advanceTime(by: .seconds(1))
        #expect(stage.timesDone == 1 && stage.memory.used == 0 && stage.said == 0)
        #expect(stage.early?.buffers == [ByteBuffer(string: "held")] && stage.early?.inputIsClosed ?? false)
        #expect(channel.isActive && stage.rounds?.young.count == 1)
        #expect(throws: ChannelPipelineError.self) { try channel.pipeline.syncOperations.handler(type: Socket.self) }
    }

    @Test func theAnswerSendsWhatWasHeldBack() throws {
        let (stage, channel, loop) = try self.waiting()
        try channel.writeInbound(ByteBuffer(string: "held"))
        channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        stage.comes("\0answer")
        #expect(stage.said == 4 && stage.stream?.finIsQueued ?? false && stage.socket?.bytesToStream == 4)
        #expect(try channel.readOutbound(as: ByteBuffer.self) == ByteBuffer(string: "answer"))
        #expect(stage.rounds?.young.count == 1)
        loop.advanceTime(by: .seconds(60))
        #expect(stage.timesDone == 0 && stage.memory.used == 0)
    }
}

@Suite struct StreamOwnersTests {
    private final class Owner: StreamOwner {
        var onEnd: () -> Void = {}

        func streamIsReadable() {}
        func streamIsWritable() {}
        func streamWasReset(_ code: StreamErrorCode) {}
        func streamWasStopped(_ code: StreamErrorCode) {}
        func streamEnded() { self.onEnd() }
    }

    /// An owner may look whether others are left, and end them too.
    @Test func eachIsEndedOnce() {
        let owners = StreamOwners()
        var left: [Int] = []
        for index in 1...3 as ClosedRange<UInt64> {
            let owner = Owner()
            owner.onEnd = {
                left.append(owners.count)
                if left.count == 2 { owners.endAll() }
            }
            owners.bind(StreamID(index: index, openedBy: .responder), to: owner)
        }
        owners.endAll()
        #expect(left == [2, 1, 0])
    }
}
