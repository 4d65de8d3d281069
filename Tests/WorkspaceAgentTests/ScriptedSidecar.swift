import Carriers
import CommandText
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import NIOPosix
import Noise
import Testing
import Tunnel

@testable import WorkspaceAgent

/// A real tunnel whose other end does only what a test says. Used on the event loop alone, which makes `@unchecked` safe.
final class ScriptedSidecar: TunnelServer.Delegate, @unchecked Sendable {
    static let loop = MultiThreadedEventLoopGroup.singleton.next()

    let key = StaticKeyPair.generate()
    private let workspace = StaticKeyPair.generate()
    private var server: TunnelServer?
    private var connection: ServerConnection?
    private var decoder = ControlMessageDecoder()
    private(set) var address = TunnelClient.Address.tcp(host: "127.0.0.1", port: 1)
    private(set) var heard: [ControlMessage] = []
    private(set) var agent: WorkspaceAgent?
    private(set) var events: [WorkspaceAgent.Event] = []
    private(set) var outcomes: [WorkspaceAgent.Outcome] = []

    static func on<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await Self.loop.submit(body).get()
    }

    /// A sidecar that listens, and an agent that dials it.
    ///
    /// - Parameters:
    ///   - isThere: without it nothing listens at the address.
    ///   - targetPort: the local server's port, for the service's port 80.
    static func start(
        isThere: Bool = true,
        presharedKey: PresharedKey = .none,
        targetPort: UInt16 = 1,
        _ change: @escaping @Sendable (inout WorkspaceAgent.Configuration) -> Void = { _ in }
    ) async throws -> ScriptedSidecar {
        let sidecar = ScriptedSidecar()
        if isThere {
            let bound = try await Self.on { sidecar.listen(presharedKey) }.get()
            let port = try #require(bound?.port)
            try await Self.on { sidecar.address = .tcp(host: "127.0.0.1", port: port) }
        }
        let targets = try LocalTargets([PortMapping("80:\(targetPort)")])
        try await Self.on { sidecar.dial(targets, change) }
        return sidecar
    }

    private func listen(_ presharedKey: PresharedKey) -> EventLoopFuture<SocketAddress?> {
        let server = TunnelServer(
            staticKey: self.key,
            configuration: TunnelConfiguration(),
            eventLoop: Self.loop,
            delegate: self
        )
        server.accept(self.workspace.publicKey, presharedKey: presharedKey)
        self.server = server
        return server.listen(host: "127.0.0.1", port: 0)
    }

    private func dial(_ targets: LocalTargets, _ change: (inout WorkspaceAgent.Configuration) -> Void) {
        var configuration = WorkspaceAgent.Configuration(
            tunnel: .init(staticKey: self.workspace, responder: self.key.publicKey),
            sidecar: [self.address],
            targets: targets,
            label: "ada@thinkpad",
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        configuration.drainSeconds = 0
        // However slow this machine is: a test that wants it given up says when.
        configuration.givesUpAfter = nil
        change(&configuration)
        let agent = WorkspaceAgent(configuration, eventLoop: Self.loop)
        agent.onEvent = { [weak self] in self?.events.append($0) }
        agent.start { [weak self] in self?.outcomes.append($0) }
        self.agent = agent
    }

    // MARK: What the test does

    func say(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        self.withConnection { _ = $0.write(bytes, to: .control) }
    }

    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.connection?.withConnection(body)
    }

    func revoke() { self.server?.revoke(self.workspace.publicKey) }

    func close(_ code: ErrorCode) { self.server?.close(self.workspace.publicKey, code) }

    /// A client's connection, up to its header.
    func open(port: UInt16 = 80) -> StreamID? {
        var header = ByteBuffer()
        let client = ClientAddress(ipv4: 0x0a00_0001, port: 40_000)
        ConnectionHeader(transport: .tcp, servicePort: port, client: client).write(into: &header)
        return self.withConnection { connection in
            guard let stream = connection.openStream() else { return nil }
            _ = connection.write(header, to: stream)
            return stream
        } ?? nil
    }

    /// Waits for what the agent says, an event or an outcome.
    func wait(until isSo: @escaping @Sendable (ScriptedSidecar) -> Bool) async throws {
        for _ in 0..<12_000 where try await !Self.on({ isSo(self) }) { try await Task.sleep(for: .milliseconds(5)) }
        let state = try await Self.on { "heard \(self.heard), outcomes \(self.outcomes), events \(self.events)" }
        try #require(await Self.on { isSo(self) }, "after a minute: \(state)")
    }

    /// Waits for this many outcomes, and returns the last.
    func outcome(_ count: Int = 1) async throws -> WorkspaceAgent.Outcome? {
        try await self.wait { $0.outcomes.count >= count }
        return try await Self.on { self.outcomes.last }
    }

    /// Waits for the first `start`, and puts its list in force.
    func begin() async throws {
        try await self.wait { !$0.heard.isEmpty }
        try await Self.on { self.say(.started(generation: 1)) }
        _ = try await self.outcome()
    }

    func end() async throws {
        try await Self.on {
            self.agent?.abandon()
            self.agent = nil
            self.server?.stopListening()
        }
    }

    // MARK: What it hears

    func tunnelServer(_ server: TunnelServer, did event: TunnelServer.Event) {
        switch event {
        case .established(let connection):
            self.connection = connection
            self.decoder = ControlMessageDecoder()
        case .connection(_, .readable(.control)):
            while case .bytes(let bytes)? = self.withConnection({ $0.read(.control) }) { self.decoder.append(bytes) }
            while case .message(let message)? = try? self.decoder.next() { self.heard.append(message) }
        default: break
        }
    }

    func tunnelServer(_ server: TunnelServer, dropped: DropReason, from remote: () -> SocketAddress?) {}
}
