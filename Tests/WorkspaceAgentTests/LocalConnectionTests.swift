import Carriers
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import NIOPosix
import Noise
import RawSockets
import Testing
import Tunnel

@testable import WorkspaceAgent

/// A stream to a workspace with a local server; the test itself is the sidecar.
@Suite struct LocalConnectionTests {
    @Test func theServerGetsTheClientsBytesAndItsAnswerComesBack() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        try await stage.onStream { $0.write(ByteBuffer(string: "question"), to: $1) }
        #expect(await server.hear(8) == "question")
        #expect(await server.say("answer"))
        #expect(try await stage.becomes { $0.answer == 0 && $0.heard == "answer" && !$0.isEnded })
        try await stage.onStream { $0.finish($1) }
        #expect(await server.hearAll() == ["", "end"])
        server.finish()
        #expect(try await stage.becomes { $0.isEnded && $0.agent.openConnections == 0 })
        #expect(try await stage.loop.submit { stage.agent.descriptors.count }.get() == 0)
    }

    @Test func whatAMirrorsServerSaysIsThrownAway() async throws {
        let stage = try await Stage.start(kind: .mirror)
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        // More than a stream and the buffers of both sockets hold.
        let much = String(repeating: "x", count: 8 << 20)
        #expect(await server.say(much))
        try await stage.onStream {
            $0.write(ByteBuffer(string: "question"), to: $1)
            $0.finish($1)
        }
        #expect(await server.hearAll() == ["question", "end"])
        server.finish()
        #expect(try await stage.becomes { $0.isEnded && $0.agent.openConnections == 0 })
        #expect(try await stage.loop.submit { stage.answer == 0 && stage.heard.isEmpty }.get())
    }

    @Test func aMirroredClientsResetIsItsCopys() async throws {
        let stage = try await Stage.start(kind: .mirror)
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        try await stage.onStream {
            $0.write(ByteBuffer(string: "half of"), to: $1)
            $0.reset($1, .tcpReset)
        }
        #expect(await server.hearAll() == ["half of", "reset"])
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.heard.isEmpty })
    }

    @Test func aHeaderMayComeInPieces() async throws {
        let stage = try await Stage.start()
        var bytes = Stage.header
        bytes.writeString("question")
        for byte in bytes.readableBytesView {
            if try await stage.loop.submit({ stage.stream == nil }).get() { try await stage.open { _, _ in } }
            try await stage.onStream { $0.write(ByteBuffer(bytes: [byte]), to: $1) }
            try await Task.sleep(for: .milliseconds(2))
        }
        let server = await stage.server.accept()
        #expect(await server.hear(8) == "question")
    }

    @Test func withoutAServerTheClientIsRefused() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header(port: 7_001), to: $1) }
        #expect(try await stage.becomes { $0.answer == Answer.refused.rawValue && $0.isEnded })
        // What still comes is thrown away, and the stream's end is awaited.
        try await stage.onStream { $0.write(ByteBuffer(string: "unheard"), to: $1) }
        #expect(try await stage.loop.submit { stage.agent.openConnections }.get() == 1)
        try await stage.onStream { $0.finish($1) }
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.agent.descriptors.count == 0 })
    }

    @Test func aPortThatIsNotMappedIsSaidToBe() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header(port: 7_002), to: $1) }
        #expect(try await stage.becomes { $0.answer == Answer.unmapped.rawValue && $0.isEnded })
        try await stage.onStream { $0.reset($1, .handedToOriginal) }
        #expect(try await stage.becomes { $0.agent.openConnections == 0 })
    }

    @Test func aHeaderOfAnotherVersionIsRefused() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(ByteBuffer(string: "GET / HTTP/1.1\r\n"), to: $1) }
        #expect(try await stage.becomes { $0.answer == Answer.other.rawValue && $0.isEnded })
    }

    @Test func aProbeConnectsAndLeaves() async throws {
        let stage = try await Stage.start()
        try await stage.open {
            $0.write(Stage.header(client: .unspecified), to: $1)
            $0.finish($1)
        }
        let server = await stage.server.accept()
        #expect(await server.hearAll() == ["", "end"])
        #expect(try await stage.becomes { $0.answer == 0 && $0.isEnded && $0.agent.openConnections == 0 })
        #expect(try await stage.loop.submit { stage.agent.descriptors.count }.get() == 0)
    }

    /// As in TCP: the bytes first, and then the reset.
    @Test func aClientThatIsGoneWhileTheServerIsDialledIsStillHeard() async throws {
        let stage = try await Stage.start(backlog: 0)
        let other = await rawConnect(to: stage.server.port)
        try await stage.open {
            var bytes = Stage.header
            bytes.writeString("last words")
            $0.write(bytes, to: $1)
            $0.reset($1, .tcpReset)
        }
        try await Task.sleep(for: .milliseconds(200))
        _ = await stage.server.accept()
        other.finish()
        let server = await stage.server.accept()
        #expect(await server.hearAll() == ["last words", "reset"])
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.agent.descriptors.count == 0 })
    }

    @Test func aStreamThatIsGivenUpBeforeItsHeaderIsForgotten() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(ByteBuffer(bytes: [1, 6]), to: $1) }
        #expect(try await stage.becomes { $0.agent.openConnections == 1 })
        try await stage.onStream { $0.reset($1, .tcpReset) }
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.reset == .tcpReset })
    }

    @Test func aServersResetIsTheStreams() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        #expect(await server.say("half of"))
        #expect(try await stage.becomes { $0.heard == "half of" })
        server.reset()
        #expect(try await stage.becomes { $0.reset == .tcpReset && $0.stopped == .tcpReset })
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.agent.descriptors.count == 0 })
    }

    @Test func theTunnelsEndResetsTheServersConnections() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        #expect(try await stage.becomes { $0.answer == 0 })
        try await stage.loop.submit { stage.end(.noError) }.get()
        #expect(await server.hearAll() == ["", "reset"])
        #expect(try await stage.becomes { $0.agent.openConnections == 0 && $0.agent.descriptors.count == 0 })
    }

    @Test func whatTheSidecarCutsAtTheEndIsCounted() async throws {
        let stage = try await Stage.start()
        try await stage.open { $0.write(Stage.header, to: $1) }
        let server = await stage.server.accept()
        #expect(try await stage.becomes { $0.answer == 0 })
        try await stage.loop.submit { stage.agent.shutDown() }.get()
        try await stage.onStream {
            $0.reset($1, .shuttingDown)
            $0.stopSending($1, .shuttingDown)
        }
        #expect(await server.hearAll() == ["", "reset"])
        #expect(
            try await stage.becomes {
                if case .ending(let ending) = $0.agent.life {
                    ending.cut == 1 && $0.agent.openConnections == 0
                } else {
                    false
                }
            }
        )
    }
}

/// A workspace on loopback, and the tunnel's other end.
///
/// Sendable, since futures carry it. Unchecked is safe: it is used on the event loop alone.
private final class Stage: TunnelServer.Delegate, @unchecked Sendable {
    let loop: any EventLoop
    let server: RawListener
    let agent: WorkspaceAgent
    private var tunnel: TunnelServer?
    private var connection: ServerConnection?
    private(set) var stream: StreamID?
    private(set) var answer: UInt8?
    private(set) var heard = ""
    private(set) var isEnded = false
    private(set) var reset: StreamErrorCode?
    private(set) var stopped: StreamErrorCode?

    private init(_ agent: WorkspaceAgent, on loop: any EventLoop, server: RawListener) {
        self.agent = agent
        self.loop = loop
        self.server = server
    }

    /// Port 7000 leads to the local server, 7001 to a port where nothing listens, and 7002 nowhere.
    static func start(backlog: CInt = 4, kind: HoldingKind = .intercept) async throws -> Stage {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let (server, closed) = (try #require(RawListener(backlog: backlog)), try #require(RawListener()).port)
        let (sidecar, workspace) = (StaticKeyPair.generate(), StaticKeyPair.generate())
        let targets = try LocalTargets([
            PortMapping(ServicePort(7_000), to: Endpoint(host: "127.0.0.1", port: UInt16(server.port))),
            PortMapping(ServicePort(7_001), to: Endpoint(host: "127.0.0.1", port: UInt16(closed))),
        ])
        var configuration = WorkspaceAgent.Configuration(
            tunnel: Initiator.Configuration(staticKey: workspace, responder: sidecar.publicKey),
            sidecar: [],
            targets: targets,
            label: "test",
            log: Logger(label: "workspace") { _ in SwiftLogNoOpLogHandler() }
        )
        configuration.kind = kind
        let built = configuration
        let stage = try await loop.flatSubmit {
            let stage = Stage(WorkspaceAgent(built, eventLoop: loop), on: loop, server: server)
            let tunnel = TunnelServer(
                staticKey: sidecar,
                configuration: TunnelConfiguration(),
                eventLoop: loop,
                delegate: stage
            )
            stage.tunnel = tunnel
            tunnel.accept(workspace.publicKey, presharedKey: .none)
            return tunnel.listen(host: "127.0.0.1", port: 0).map { address in
                stage.agent.configuration.sidecar = [.tcp(host: "127.0.0.1", port: address?.port ?? 0)]
                stage.agent.start { _ in }
                return stage
            }
        }.get()
        // Sockets that are still open when a test ends refer to it.
        _ = Unmanaged.passRetained(stage)
        #expect(try await stage.becomes { !$0.agent.isStarting })
        return stage
    }

    /// Looks until it is so, for a minute at most.
    func becomes(_ isSo: @escaping @Sendable (Stage) -> Bool) async throws -> Bool {
        for _ in 0..<12_000 {
            if try await self.loop.submit({ isSo(self) }).get() { return true }
            try await Task.sleep(for: .milliseconds(5))
        }
        let state = try await self.loop.submit {
            "answer \(String(describing: self.answer)), heard '\(self.heard)', ended \(self.isEnded), life \(self.agent.life), "
                + "open \(self.agent.openConnections), connected \(self.connection != nil)"
        }.get()
        Issue.record("after a minute: \(state)")
        return false
    }

    static var header: ByteBuffer { Self.header() }

    static func header(
        port: UInt16 = 7_000,
        client: ClientAddress = ClientAddress(ipv4: 0x7f00_0001, port: 40_000)
    ) -> ByteBuffer {
        var bytes = ByteBuffer()
        ConnectionHeader(transport: .tcp, servicePort: port, client: client).write(into: &bytes)
        return bytes
    }

    func open(_ body: @escaping @Sendable (inout Connection, StreamID) -> Void) async throws {
        try await self.loop.submit { self.stream = self.withConnection { $0.openStream() } ?? nil }.get()
        try await self.onStream(body)
    }

    func onStream(_ body: @escaping @Sendable (inout Connection, StreamID) -> Void) async throws {
        try await self.loop.submit {
            guard let stream = self.stream else { return }
            _ = self.withConnection { body(&$0, stream) }
        }.get()
    }

    func end(_ code: ErrorCode) { if let connection { self.tunnel?.close(connection.key, code) } }

    private func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.connection?.withConnection(body)
    }

    func tunnelServer(_ server: TunnelServer, did event: TunnelServer.Event) {
        switch event {
        case .established(let connection):
            self.connection = connection
            var started = ByteBuffer()
            ControlMessage.started(generation: 1).encode(into: &started)
            _ = self.withConnection { $0.write(started, to: .control) }
        case .connection(_, .readable(let id)) where id == self.stream: self.read(id)
        case .connection(_, .reset(let id, let code)) where id == self.stream:
            self.read(id)
            self.reset = code
        case .connection(_, .stopped(let id, let code)) where id == self.stream: self.stopped = code
        default: break
        }
    }

    private func read(_ id: StreamID) {
        while let next = self.withConnection({ $0.read(id) }) {
            switch next {
            case .bytes(var bytes):
                if self.answer == nil { self.answer = bytes.readInteger() }
                self.heard += String(buffer: bytes)
            case .end:
                self.isEnded = true
                return
            case .nothing: return
            }
        }
    }

    func tunnelServer(_ server: TunnelServer, dropped reason: DropReason, from remote: () -> SocketAddress?) {}
}
