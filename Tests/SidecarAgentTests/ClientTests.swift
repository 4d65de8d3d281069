import Carriers
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import NIOPosix
import Noise
import RawSockets
import Testing

@testable import SidecarAgent
@testable import Tunnel

/// A client of an intercepted port, with the original behind it; the test itself is the workspace.
@Suite struct ClientTests {
    @Test func theWorkspacesAnswerTiesTheClientToIt() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes(\.isSettled))
        #expect(await client.say("early, "))
        #expect(try await stage.becomes { $0.heard == "early, " })
        try await stage.answer(0, and: "served")
        #expect(await client.hear(6) == "served")
        #expect(await client.say("late"))
        client.finish()
        #expect(try await stage.becomes { $0.heard == "early, late" && $0.isEnded })
        try await stage.onStream { $0.finish($1) }
        #expect(await client.hearAll() == ["", "end"])
        #expect(try await stage.becomes { $0.agent.clients == 0 })
        let status = try await stage.loop.submit { stage.agent.links.values.first?.status }.get()
        #expect(status?.open == 0 && status?.bytesIn == 11 && status?.bytesOut == 6)
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt8])
    func aRefusedClientIsTheOriginalsWithAllThatItSaid(_ answer: UInt8) async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes(\.isSettled))
        #expect(await client.say("question"))
        client.finish()
        #expect(try await stage.becomes { $0.heard == "question" && $0.isEnded })
        try await stage.answer(answer)
        let original = await stage.original.accept()
        #expect(await original.hearAll() == ["question", "end"])
        #expect(await original.say("answer"))
        original.finish()
        #expect(await client.hearAll() == ["answer", "end"])
        #expect(try await stage.becomes { $0.agent.clients == 0 && $0.agent.earlyMemory.used == 0 })
    }

    /// Before it could be tied to its stream.
    @Test func aClientThatHasGoneLeavesNothing() async throws {
        let stage = try await Stage.start()
        let bootstrap = ClientBootstrap(group: stage.loop)
        let channel = try await bootstrap.connect(host: "127.0.0.1", port: stage.original.port).get()
        try await channel.close()
        let isOpened = try await stage.loop.submit {
            stage.agent.clients += 1
            let upstream = Endpoint(host: "127.0.0.1", port: 1)
            let client = Client(channel: channel, input: UrgentInput(channel), port: 7_000, upstream: upstream)
            return stage.agent.links.values.first?.open(client)
        }.get()
        #expect(isOpened == true)
        #expect(try await stage.becomes { $0.agent.clients == 0 && $0.agent.links.values.first?.openCount == 0 })
    }

    @Test func anAnswerThatIsNoneResetsTheClient() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(await client.say("question"))
        try await stage.answer(9)
        #expect(await client.hearAll() == ["", "reset"])
        #expect(try await stage.becomes { $0.reset == .tcpReset && $0.agent.clients == 0 })
    }

    @Test func aStreamResetBeforeTheAnswerResetsTheClient() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes { $0.stream != nil })
        try await stage.onStream { $0.reset($1, .handedToOriginal) }
        #expect(await client.hearAll() == ["", "reset"])
        #expect(try await stage.becomes { $0.agent.clients == 0 && $0.agent.earlyMemory.used == 0 })
    }

    @Test func aClientThatLeavesBeforeTheAnswerResetsItsStream() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes(\.isSettled))
        #expect(await client.say("question"))
        #expect(try await stage.becomes { $0.heard == "question" })
        client.reset()
        #expect(try await stage.becomes { $0.reset == .tcpReset && $0.stopped == .tcpReset })
        #expect(try await stage.becomes { $0.agent.clients == 0 && $0.agent.earlyMemory.used == 0 })
    }

    @Test func aSilentClientOfAWorkspaceThatIsGoneIsTheOriginals() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes { $0.stream != nil })
        try await stage.loop.submit { stage.tunnel?.close(.done) }.get()
        let original = await stage.original.accept()
        #expect(await client.say("question"))
        #expect(await original.hear(8) == "question")
    }

    /// A server may have acted on the bytes, so the original must not get them.
    @Test func aClientThatHasSpokenToAWorkspaceThatIsGoneIsReset() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        #expect(try await stage.becomes(\.isSettled))
        #expect(await client.say("question"))
        #expect(try await stage.becomes { $0.heard == "question" })
        try await stage.loop.submit { stage.tunnel?.close(.done) }.get()
        #expect(await client.hearAll() == ["", "reset"])
        #expect(try await stage.becomes { $0.agent.clients == 0 && $0.agent.earlyMemory.used == 0 })
    }

    @Test func onlySoMuchIsKeptBeforeTheAnswer() async throws {
        let stage = try await Stage.start()
        let client = await stage.connect()
        let much = String(repeating: "x", count: 1 << 20)
        async let isSaid = client.say(much)
        #expect(try await stage.becomes { $0.agent.earlyMemory.used >= 64 * 1_024 })
        try await Task.sleep(for: .milliseconds(100))
        // The last read may have gone beyond.
        #expect(try await stage.loop.submit { stage.agent.earlyMemory.used }.get() <= 128 * 1_024)
        try await stage.answer(0)
        #expect(try await stage.becomes { $0.heard == much && $0.agent.earlyMemory.used == 0 })
        #expect(await isSaid)
    }

    @Test func theDrainTimesEndResetsWhatIsOpen() async throws {
        let stage = try await Stage.start()
        let (waiting, open) = (await stage.connect(), await stage.connect())
        #expect(try await stage.becomes { $0.streams.count == 2 })
        try await stage.answer(0)
        try await stage.say(.stop)
        #expect(await waiting.hearAll() == ["", "reset"])
        #expect(await open.hearAll() == ["", "reset"])
        #expect(try await stage.becomes { $0.reset == .shuttingDown && $0.isStopped })
    }
}

/// A sidecar on loopback, and a tunnel to it.
///
/// Sendable, since futures carry it. Unchecked is safe: it is used on the event loop alone.
private final class Stage: TunnelClient.Delegate, @unchecked Sendable {
    let loop: any EventLoop
    let agent: SidecarAgent
    let original: RawListener
    private(set) var tunnel: TunnelClient?
    private var port = 0
    private var decoder = ControlMessageDecoder()
    private var isStarted = false
    private(set) var isStopped = false
    private(set) var streams: [StreamID] = []
    /// What was heard on the last stream.
    private(set) var heard = ""
    private(set) var isEnded = false
    private(set) var reset: StreamErrorCode?
    private(set) var stopped: StreamErrorCode?

    private init(_ agent: SidecarAgent, on loop: any EventLoop, original: RawListener) {
        self.agent = agent
        self.loop = loop
        self.original = original
    }

    static func start() async throws -> Stage {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let original = try #require(RawListener())
        let (sidecar, workspace) = (StaticKeyPair.generate(), StaticKeyPair.generate())
        let configuration = SidecarAgent.Configuration(
            staticKey: sidecar,
            peers: [workspace.publicKey],
            tunnelAddress: Endpoint(host: "127.0.0.1", port: 0),
            servedPorts: [
                ServedPort(ServicePort(7_000), upstream: Endpoint(host: "127.0.0.1", port: UInt16(original.port)))
            ],
            divert: .listen(Endpoint(host: "127.0.0.1", port: 0)),
            log: Logger(label: "sidecar") { _ in SwiftLogNoOpLogHandler() }
        )
        let stage = try await loop.flatSubmit {
            let stage = Stage(SidecarAgent(configuration, eventLoop: loop), on: loop, original: original)
            return stage.agent.start().map { ready in
                stage.port = ready.services.values.first?.port ?? 0
                let tunnel = TunnelClient(
                    Initiator.Configuration(staticKey: workspace, responder: sidecar.publicKey),
                    addresses: [.tcp(host: "127.0.0.1", port: ready.tunnel?.port ?? 0)],
                    eventLoop: loop,
                    delegate: stage
                )
                stage.tunnel = tunnel
                tunnel.start()
                return stage
            }
        }.get()
        // Sockets that are still open when a test ends refer to it.
        _ = Unmanaged.passRetained(stage)
        #expect(try await stage.becomes { $0.isStarted })
        return stage
    }

    func connect() async -> RawSocket { await rawConnect(to: self.port) }

    /// Looks until it is so, for a minute at most.
    func becomes(_ isSo: @escaping @Sendable (Stage) -> Bool) async throws -> Bool {
        for _ in 0..<12_000 {
            if try await self.loop.submit({ isSo(self) }).get() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        return false
    }

    var stream: StreamID? { self.streams.last }

    /// There is a stream, and all is acknowledged. While an acknowledgement is late, as on a busy machine, what a client says is held
    /// back until the workspace's answer.
    var isSettled: Bool {
        self.stream != nil && self.agent.links.values.allSatisfy { $0.withConnection { $0.sent.isEmpty } ?? true }
    }

    /// Does something with the last stream, once there is one.
    func onStream(_ body: @escaping @Sendable (inout Connection, StreamID) -> Void) async throws {
        #expect(try await self.becomes { $0.stream != nil })
        try await self.loop.submit {
            guard let stream = self.stream else { return }
            _ = self.tunnel?.withConnection { body(&$0, stream) }
        }.get()
    }

    /// The workspace's answer; a refusal ends the stream.
    func answer(_ answer: UInt8, and text: String = "") async throws {
        try await self.onStream { connection, stream in
            connection.write(ByteBuffer(bytes: [answer] + Array(text.utf8)), to: stream)
            if answer != 0 { connection.finish(stream) }
        }
    }

    func say(_ message: ControlMessage) async throws { try await self.loop.submit { self.send(message) }.get() }

    private func send(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        _ = self.tunnel?.withConnection { $0.write(bytes, to: .control) }
    }

    func tunnelClient(_ client: TunnelClient, did event: Initiator.Event) {
        switch event {
        case .established:
            var start = ControlMessage.Start(generation: 1, workspace: "test", ports: [ServicePort(7_000)])
            start.drainSeconds = 0
            #expect(client.withConnection { $0.openStream() } == .control)
            self.send(.start(start))
        case .connection(.readable(.control)): self.readControl()
        case .connection(.streamOpened(let id)): self.streams.append(id)
        case .connection(.readable(let id)) where id == self.stream: self.read(id)
        case .connection(.reset(let id, let code)) where id == self.stream: self.reset = code
        case .connection(.stopped(let id, let code)) where id == self.stream: self.stopped = code
        default: break
        }
    }

    private func readControl() {
        while case .bytes(let bytes) = self.tunnel?.withConnection({ $0.read(.control) }) {
            self.decoder.append(bytes)
            while case .message(let message) = try? self.decoder.next() {
                if case .started = message { self.isStarted = true }
                if case .stopped = message { self.isStopped = true }
            }
        }
    }

    /// A header's length, of an IPv4 client.
    private static let headerLength = 11
    private var unread = Stage.headerLength

    private func read(_ id: StreamID) {
        while let next = self.tunnel?.withConnection({ $0.read(id) }) {
            switch next {
            case .bytes(var bytes):
                let header = min(self.unread, bytes.readableBytes)
                bytes.moveReaderIndex(forwardBy: header)
                self.unread -= header
                self.heard += String(buffer: bytes)
            case .end:
                self.isEnded = true
                return
            case .nothing: return
            }
        }
    }

    func tunnelClientHasToldAll(_ client: TunnelClient) {}
    func tunnelClient(_ client: TunnelClient, dialFailed failures: [DialFailure], retryIn delay: TimeAmount) {}
    func tunnelClientLostItsCarrier(_ client: TunnelClient) {}
}
