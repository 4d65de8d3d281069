import CommandText
import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import Libc
import Logging
import NIOCore
import NIOPosix
import Noise
import SidecarAgent
import Synchronization
import Testing
import WorkspaceAPI

@testable import WorkspaceDaemon

/// A server that says its name to whoever connects, and closes.
final class NamedServer: Sendable {
    let port: UInt16
    private let channel: any Channel

    init(_ name: String, port: UInt16 = 0) async throws {
        let accepted = Mutex(0)
        self.channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                accepted.withLock { $0 += 1 }
                channel.writeAndFlush(ByteBuffer(string: name)).whenComplete { _ in channel.close(promise: nil) }
                return channel.eventLoop.makeSucceededVoidFuture()
            }
            .bind(host: "127.0.0.1", port: Int(port)).get()
        self.port = UInt16(self.channel.localAddress?.port ?? 0)
    }

    /// Until its port refuses connections: a child that another test's code forks at this moment has the socket too, until
    /// that child's exec.
    func close() async {
        try? await self.channel.close().get()
        let isGone = await eventually {
            let client = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(host: "127.0.0.1", port: Int(self.port)).get()
            try? await client?.close().get()
            return client == nil
        }
        #expect(isGone)
    }
}

/// A port on which nothing listens, and that no other test gets: bound as long as this lives. A server that asks for it by
/// its number may listen there all the same (SO_REUSEADDR).
final class HeldPort {
    let port: UInt16
    private let descriptor: CInt

    init() throws {
        let descriptor = socket(AF_INET, SocketType.stream, 0)
        var on: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<CInt>.size))
        let any = try SocketAddress(ipAddress: "127.0.0.1", port: 0)
        try #require(any.withSockAddr { bind(descriptor, $0, socklen_t($1)) } == 0)
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isNamed = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) == 0 }
        }
        try #require(isNamed)
        self.descriptor = descriptor
        self.port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(self.descriptor) }
}

/// What answers there; empty where the connection is refused or reset.
func ask(_ port: UInt16) async -> String {
    final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private var said = ByteBuffer()
        private let promise: EventLoopPromise<String>

        init(_ promise: EventLoopPromise<String>) { self.promise = promise }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = self.unwrapInboundIn(data)
            self.said.writeBuffer(&bytes)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
        func channelInactive(context: ChannelHandlerContext) { self.promise.succeed(String(buffer: self.said)) }
    }
    let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
    let promise = eventLoop.makePromise(of: String.self)
    do {
        _ = try await ClientBootstrap(group: eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Collector(promise))
                }
            }
            .connect(host: "127.0.0.1", port: Int(port)).get()
    } catch {
        promise.succeed("")
    }
    return (try? await promise.futureResult.get()) ?? ""
}

/// Until it holds, or a minute is over.
func eventually(_ condition: @Sendable () async -> Bool) async -> Bool {
    for _ in 0..<6_000 {
        if await condition() { return true }
        try? await Task.sleep(for: .milliseconds(10))
    }
    return false
}

/// An environment in memory, with real sidecars on loopback.
final class Stage: Environment {
    struct State {
        var sidecars: [String: Running] = [:]
        var members: Set<String> = []
        var records: [InterceptRecord] = []
        var isUp = true
        /// Of each sidecar: the service's ports that it knows.
        var served: [UInt16] = []
        var claims = 0
    }

    struct Running: Sendable {
        var location: SidecarLocation
        var agent: NIOLoopBound<SidecarAgent>
        var ports: [UInt16: UInt16]
    }

    let reference: EnvironmentReference
    let makesSidecars = false
    let original: NamedServer
    /// The service's ports.
    let ports: [UInt16]
    private let state = Mutex(State())

    init(ports: [UInt16] = [8_080]) async throws {
        self.reference = EnvironmentReference(
            kind: .local,
            name: "demo",
            location: "/stage/\(UInt64.random(in: 0 ... .max))"
        )
        self.original = try await NamedServer("original")
        self.ports = ports
        try await self.startSidecar("api-1")
    }

    func startSidecar(_ name: String, ports: [UInt16]? = nil, keepsPorts: [UInt16: UInt16] = [:]) async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let key = StaticKeyPair.generate()
        let original = self.original.port
        let served = ports ?? self.ports
        let peers = self.state.withLock { $0.members.compactMap { PublicKey(base64: $0) } }
        // Each at a port of its own: they are all found by the environment.
        let servedPorts = try served.map { try ServedPort("\($0):127.0.0.1:\(original)") }
        let agent = try await loop.submit {
            var log = Logger(label: "sidecar") { _ in SwiftLogNoOpLogHandler() }
            log.logLevel = .critical
            var configuration = SidecarAgent.Configuration(
                staticKey: key,
                peers: peers,
                tunnelAddress: Endpoint(host: "127.0.0.1", port: 0),
                servedPorts: servedPorts,
                divert: .listen(Endpoint(host: "127.0.0.1", port: 0)),
                log: log
            )
            configuration.allowsTakeover = true
            configuration.allowsRefuse = true
            return NIOLoopBound(SidecarAgent(configuration, eventLoop: loop), eventLoop: loop)
        }.get()
        let ready = try await loop.flatSubmit { agent.value.start() }.get()
        let listening = Dictionary(
            uniqueKeysWithValues: ready.services.map { ($0.key.number, UInt16($0.value.port ?? 0)) }
        )
        let location = SidecarLocation(
            name: name,
            publicKey: key.publicKey.base64,
            tcp: "127.0.0.1:\(ready.tunnel?.port ?? 0)",
            listens: listening.values.map { "127.0.0.1:\($0)" }
        )
        let running = Running(location: location, agent: agent, ports: listening)
        self.state.withLock { $0.sidecars[name] = running }
    }

    /// Without a word, as a crash: its tunnels are cut.
    func endSidecar(_ name: String) async throws {
        guard let running = self.state.withLock({ $0.sidecars.removeValue(forKey: name) }) else { return }
        let loop = running.agent.eventLoop
        try await loop.flatSubmit { running.agent.value.shutDown() }.get()
    }

    func port(_ service: UInt16 = 8_080, of sidecar: String = "api-1") -> UInt16 {
        self.state.withLock { $0.sidecars[sidecar]?.ports[service] ?? 0 }
    }

    /// What the environment tells of it from now on.
    func change(_ sidecar: String = "api-1", _ change: (inout SidecarLocation) -> Void) {
        self.state.withLock { state in
            guard var running = state.sidecars[sidecar] else { return }
            change(&running.location)
            state.sidecars[sidecar] = running
        }
    }

    var records: [InterceptRecord] { self.state.withLock { $0.records } }

    func setUp(_ isUp: Bool) { self.state.withLock { $0.isUp = isUp } }

    // MARK: Environment

    private func found<Result>(_ body: (inout State) throws -> Result) throws -> Result {
        try self.state.withLock { state in
            guard state.isUp else { throw Problem(.notUp, "environment 'demo' isn't up. Start it: kl env up") }
            return try body(&state)
        }
    }

    func services() async throws -> [Service] {
        try self.found { state in
            let isThere = !state.sidecars.isEmpty
            return [
                Service(
                    name: "api",
                    state: isThere ? .running : .stopped,
                    reason: isThere ? nil : "its sidecar ended",
                    ports: [.init(published: 8_080, target: 8_080)]
                )
            ]
        }
    }

    func sidecars(of service: String) async throws -> [SidecarLocation] {
        try self.found { state in
            guard service == "api" else { throw Problem(.noSuchService, "service '\(service)' isn't there") }
            return state.sidecars.values.map(\.location).sorted { $0.name < $1.name }
        }
    }

    func join(_ member: Member) async throws {
        let (running, keys) = try self.found { state in
            state.members.insert(member.publicKey)
            return (Array(state.sidecars.values), state.members.compactMap { PublicKey(base64: $0) })
        }
        for one in running {
            try await one.agent.eventLoop.submit { one.agent.value.accept(keys.map { AcceptedKey($0) }) }.get()
        }
    }

    func intercepts() async throws -> [InterceptRecord] { try self.found { $0.records } }

    func claim(_ record: InterceptRecord, options: SidecarOptions) -> any ServiceClaim {
        StageClaim(stage: self, record: record)
    }

    func changes() async -> AsyncStream<EnvironmentChange> { AsyncStream { $0.finish() } }

    fileprivate func take(_ record: InterceptRecord, force: Bool) throws -> ClaimResult {
        try self.found { state in
            state.claims += 1
            let isOwn = { (other: InterceptRecord) in other.holder.publicKey == record.holder.publicKey }
            if let own = state.records.first(where: isOwn), own.kind != record.kind {
                throw Problem.held(record.service, as: own.kind)
            }
            let held = state.records.first { $0.conflicts(with: record) }
            if let held, !force { return .heldBy(held) }
            state.records.removeAll { isOwn($0) || $0.conflicts(with: record) }
            state.records.append(record)
            return held.map { .takenOver(from: $0) } ?? .claimed
        }
    }

    fileprivate func release(_ record: InterceptRecord) throws {
        try self.found { state in
            state.records.removeAll { $0.holder.publicKey == record.holder.publicKey }
        }
    }

    // MARK: Workspaces

    func request(
        _ mappings: [(UInt16, UInt16)],
        kind: HoldingKind = .intercept,
        force: Bool = false,
        carrier: CarrierChoice = .auto,
        endpoint: Endpoint? = nil
    ) throws -> StartRequest {
        try StartRequest(
            environment: self.reference,
            service: "api",
            mappings: mappings.map { PortMapping(ServicePort($0.0), to: Endpoint(host: "127.0.0.1", port: $0.1)) },
            kind: kind,
            drainSeconds: 1,
            force: force,
            carrier: carrier,
            endpoint: endpoint
        )
    }
}

/// As a local environment's: the sidecars are the stage's.
private struct StageClaim: ServiceClaim {
    let stage: Stage
    let record: InterceptRecord

    func take(force: Bool) async throws -> ClaimResult { try self.stage.take(self.record, force: force) }

    func sidecars() async throws -> [SidecarLocation] {
        let locations = try await self.stage.sidecars(of: self.record.service)
        try await self.stage.join(self.record.holder)
        return locations
    }

    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState {
        if occasion != .routine {
            let records = try await self.stage.intercepts()
            guard records.contains(where: { $0.holder == self.record.holder }) else {
                return records.first { $0.conflicts(with: self.record) }.map { .lost(to: $0) } ?? .ended
            }
        }
        let locations = try await self.stage.sidecars(of: self.record.service)
        return locations.isEmpty ? .restarting : .sidecars(locations)
    }

    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] { [] }

    func release() async throws { try self.stage.release(self.record) }
}

extension Step {
    /// With `tunnelUp`.
    var sidecars: [SidecarStatus] { if case .tunnelUp(let sidecars) = self.event { sidecars } else { [] } }
}

/// A workspace with its daemon, in this process.
@DaemonLoop
final class Workspace {
    let daemon: Daemon
    let home: WorkspaceHome
    private let folder: TemporaryFolder
    let stage: Stage

    init(_ stage: Stage, in folder: TemporaryFolder? = nil, version: String = "1") async throws {
        self.folder = try folder ?? TemporaryFolder()
        self.home = WorkspaceHome(folder: "\(self.folder.path)/home")
        self.stage = stage
        let identity = try WorkspaceIdentity(home: self.home)
        var log = Logger(label: "daemon") { _ in SwiftLogNoOpLogHandler() }
        log.logLevel = .critical
        self.daemon = Daemon(
            home: self.home,
            identity: identity,
            version: version,
            idleTime: .hours(1),
            log: log,
            makeEnvironment: { _ in stage },
            onEnd: {}
        )
        try await self.daemon.start()
    }

    @discardableResult
    func start(
        _ mappings: (UInt16, UInt16)...,
        kind: HoldingKind = .intercept,
        force: Bool = false,
        carrier: CarrierChoice = .auto,
        endpoint: Endpoint? = nil
    ) async throws -> (InterceptStatus, [Step]) {
        var steps: [Step] = []
        let request = try self.stage.request(mappings, kind: kind, force: force, carrier: carrier, endpoint: endpoint)
        let status = try await self.daemon.start(request, cancel: {}, { steps.append($0) })
        return (status, steps)
    }

    @discardableResult
    func stop() async throws -> (InterceptStatus, [Step]) {
        var steps: [Step] = []
        let request = StopRequest(environment: self.stage.reference, service: "api")
        let status = try await self.daemon.stop(request) { steps.append($0) }
        return (status, steps)
    }

    var status: InterceptStatus? { self.daemon.intercepts.first }
    var phase: Phase? { self.status?.phase }
}
