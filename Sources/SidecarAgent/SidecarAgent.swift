public import Carriers
import Diversion
public import InterceptProtocol
public import Logging
public import NIOCore
import NIOPosix
public import Noise
public import Tunnel

/// The half next to the service: accepts its clients, and gives each to the workspace or to the original.
///
/// Lives on one event loop, as do the tunnel, its carriers and all sockets.
public final class SidecarAgent {
    public struct Configuration: Sendable {
        public var staticKey: StaticKeyPair
        public var peers: [PublicKey]
        public var presharedKey: PresharedKey = .none
        public var tunnel = TunnelConfiguration()
        public var tunnelAddress: Endpoint
        public var servicePorts: [ServicePort]
        /// Where the service's ports are listened on.
        public var divert: Divert
        public var log: Logger
        /// Listening sockets that were opened for this agent, and take the place of its own.
        public var sockets = Sockets()
        /// How many descriptors the process may have.
        public var descriptorLimit = 1_024
        /// How long open connections may still take when the agent is told to end.
        public var shutdownDrain = TimeAmount.seconds(10)

        public init(
            staticKey: StaticKeyPair,
            peers: [PublicKey],
            tunnelAddress: Endpoint,
            servicePorts: [ServicePort],
            divert: Divert,
            log: Logger
        ) {
            self.staticKey = staticKey
            self.peers = peers
            self.tunnelAddress = tunnelAddress
            self.servicePorts = servicePorts
            self.divert = divert
            self.log = log
        }
    }

    public enum Divert: Hashable, Sendable {
        /// The address and port of the one service port.
        case listen(Endpoint)
        /// An address: each service port is listened on there.
        case listenOnAll(host: String)

        /// Where clients of a service port connect.
        public func endpoint(of port: UInt16) -> Endpoint {
            switch self {
            case .listen(let endpoint): endpoint
            case .listenOnAll(let host): Endpoint(host: host, port: port)
            }
        }
    }

    public struct Sockets: Sendable {
        public var tunnel: [CInt] = []
        /// Of `DialSocket`; nil: one is opened once it is known where the tunnel listens.
        public var dial: CInt?
        /// By service port; more than one where the port has several addresses.
        public var services: [UInt16: [CInt]] = [:]

        public init() {}
    }

    /// What is to be told once it runs.
    public struct Ready: Sendable {
        public var tunnel: SocketAddress?
        public var services: [UInt16: SocketAddress]
    }

    public let eventLoop: any EventLoop
    let log: Logger
    private let configuration: Configuration
    private var server: TunnelServer?
    private let diversion: ListenDiversion
    private var upstreams: [Endpoint: DialTarget] = [:]
    private static let upstreamTimeout = TimeAmount.seconds(10)
    private var links: [PublicKey: WorkspaceLink] = [:]
    var holder: WorkspaceLink? { didSet { self.interceptMayHaveChanged() } }
    /// Called on the event loop, soon after who gets new connections has changed.
    public var onInterceptChange: (() -> Void)?
    private var changeIsScheduled = false
    /// What all clients that wait for an answer have said so far.
    var keptBytes = 0
    private var clients = 0
    private let clientsAtMost: Int
    private var passedTotal: UInt64 = 0
    private var interceptedTotal: UInt64 = 0
    private var drops = DropLog()
    private var onIdle: (() -> Void)?

    /// - Precondition: called on the event loop, as every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.log = configuration.log
        self.diversion = ListenDiversion(eventLoop: eventLoop)
        // Each client that is taken may need a second descriptor, for the original; some are for everything else.
        self.clientsAtMost = max(16, (configuration.descriptorLimit - 64) / 2)
    }

    // MARK: Starting

    public func start() -> EventLoopFuture<Ready> {
        let server = TunnelServer(
            staticKey: self.configuration.staticKey,
            configuration: self.configuration.tunnel,
            eventLoop: self.eventLoop,
            delegate: self
        )
        self.server = server
        for key in self.configuration.peers { server.accept(key, presharedKey: self.configuration.presharedKey) }
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return self.listenForWorkspaces(server).flatMap { tunnel in
            this.value.listenForDial(besides: tunnel).map { tunnel }
        }.flatMap { tunnel in
            this.value.listenForClients().map { Ready(tunnel: tunnel, services: $0) }
        }
    }

    private func listenForWorkspaces(_ server: TunnelServer) -> EventLoopFuture<SocketAddress?> {
        let address = self.configuration.tunnelAddress
        let sockets = self.configuration.sockets.tunnel
        guard !sockets.isEmpty else {
            return server.listen(host: address.host, port: Int(address.port))
                .flatMapErrorThrowing { throw StartError("The tunnel can't listen on \(address)", $0) }
        }
        return EventLoopFuture.whenAllSucceed(sockets.map { server.listen(onBoundSocket: $0) }, on: self.eventLoop)
            .map { $0.first ?? nil }
            .flatMapErrorThrowing { throw StartError("The tunnel can't use the socket that it was given", $0) }
    }

    /// Without it workspaces still dial in over TCP.
    private func listenForDial(besides tunnel: SocketAddress?) -> EventLoopFuture<Void> {
        guard let server = self.server else { return self.eventLoop.makeSucceededVoidFuture() }
        do {
            let place = Endpoint(host: tunnel?.ipAddress ?? "", port: UInt16(clamping: tunnel?.port ?? 0))
            let descriptor = try self.configuration.sockets.dial ?? DialSocket.listen(for: "\(place)")
            return server.listen(onDialSocket: descriptor)
        } catch {
            self.log.warning("kl-sidecar dial finds no way in here: \(error)")
            return self.eventLoop.makeSucceededVoidFuture()
        }
    }

    private func listenForClients() -> EventLoopFuture<[UInt16: SocketAddress]> {
        let futures = self.configuration.servicePorts.flatMap {
            servicePort -> [EventLoopFuture<(UInt16, SocketAddress?)>] in
            let endpoint = self.configuration.divert.endpoint(of: servicePort.port)
            let port = servicePort.port
            do {
                let upstream = servicePort.upstream
                // A service that is told "localhost" may listen on ::1 alone.
                self.upstreams[upstream] =
                    upstream.host == "127.0.0.1"
                    ? DialTarget(loopbackPort: Int(upstream.port))
                    : try DialTarget(host: upstream.host, port: Int(upstream.port))
            } catch {
                let error = StartError("The original's address \(servicePort.upstream) can't be looked up", error)
                return [self.eventLoop.makeFailedFuture(error)]
            }
            let sockets = self.configuration.sockets.services[port] ?? []
            let sources: [ListenDiversion.Source] =
                sockets.isEmpty
                ? [.address(host: endpoint.host, port: Int(endpoint.port))] : sockets.map { .socket($0) }
            return sources.map { source in
                self.diversion.listen(on: source) { [weak self] in self?.accepted($0, port: port) }
                    .map { (port, $0) }
                    .flatMapErrorThrowing { throw StartError("Port \(port) can't be listened for on \(endpoint)", $0) }
            }
        }
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return EventLoopFuture.whenAllSucceed(futures, on: self.eventLoop).flatMapThrowing { bound in
            let listeners = bound.compactMap { port, address in address.map { (port, $0) } }
            try this.value.refuseLoops(listeners.map(\.1))
            return Dictionary(listeners, uniquingKeysWith: { first, _ in first })
        }
    }

    /// A sidecar that is its own original would connect to itself until its descriptors run out.
    private func refuseLoops(_ listeners: [SocketAddress]) throws {
        let own = Set((try? System.enumerateDevices())?.compactMap { $0.address?.ipAddress } ?? [])
        for (upstream, target) in self.upstreams {
            for address in target.addresses {
                let isOwn = listeners.contains { listener in
                    guard listener.port == address.port, let here = listener.ipAddress, let there = address.ipAddress
                    else { return false }
                    return here == there || (["0.0.0.0", "::"].contains(here) && own.contains(there))
                }
                guard isOwn else { continue }
                throw StartError(
                    """
                    The original's address \(upstream) is where this sidecar itself listens. Let the service listen on \
                    another port, and name it: --service-port \(upstream.port):127.0.0.1:OTHER_PORT.
                    """
                )
            }
        }
    }

    // MARK: Who may connect

    /// Replaces the accepted keys: what is no longer among them ends at once.
    public func accept(_ keys: [PublicKey]) {
        guard let server = self.server else { return }
        for key in server.acceptedKeys where !keys.contains(key) {
            self.log.notice("key is no longer accepted", metadata: ["key": "\(key.abbreviated)"])
            server.revoke(key)
        }
        for key in keys { server.accept(key, presharedKey: self.configuration.presharedKey) }
    }

    // MARK: Clients

    func serves(_ port: UInt16) -> Bool { self.servicePortNumbers.contains(port) }

    var servicePortNumbers: [UInt16] { self.configuration.servicePorts.map(\.port) }

    private func accepted(_ channel: any Channel, port: UInt16) {
        self.clients += 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        guard let servicePort = self.configuration.servicePorts.first(where: { $0.port == port }) else {
            return channel.close(promise: nil)
        }
        if let holder = self.holder, holder.wants(port) {
            if holder.isDiverting, holder.open(channel, port: port, upstream: servicePort.upstream) {
                self.interceptedTotal += 1
                return
            }
            return self.passOn(channel, to: servicePort.upstream, countedFor: holder)
        }
        self.passOn(channel, to: servicePort.upstream, countedFor: nil)
    }

    /// Gives a client to the original service, with all that it has said so far.
    func passOn(
        _ channel: any Channel,
        to upstream: Endpoint,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        countedFor link: WorkspaceLink?
    ) {
        if let link, link.intercept?.onUnavailable == .refuse {
            channel.closeWithReset()
            return self.clientIsDone()
        }
        link?.passed += 1
        self.passedTotal += 1
        let relay = ChannelRelay(client: channel, firstBytes: firstBytes, inputIsClosed: inputIsClosed) { [weak self] in
            self?.clientIsDone()
        }
        guard let target = self.upstreams[upstream],
            (try? channel.pipeline.syncOperations.addHandler(relay)) != nil
        else {
            channel.closeWithReset()
            return self.clientIsDone()
        }
        target.connect(on: self.eventLoop, timeout: Self.upstreamTimeout).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let original): relay.join(original)
            case .failure: relay.refuse()
            }
        }
    }

    func clientIsDone() {
        self.clients -= 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        if self.clients == 0 { self.onIdle?() }
    }

    func releaseHolder(_ link: WorkspaceLink) { if self.holder === link { self.holder = nil } }

    func closeConnection(of key: PublicKey, _ code: ErrorCode) { self.server?.close(key, code) }

    /// Who intercepts, as the environment is told it.
    public struct Intercept: Equatable, Sendable {
        /// Who gets new connections; nil: the original does.
        public var divertingTo: PublicKey?
        /// Of the holder's.
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0
    }

    public var intercept: Intercept {
        guard let holder = self.holder else { return Intercept() }
        return Intercept(
            divertingTo: holder.isDiverting ? holder.key : nil,
            open: UInt64(holder.openCount),
            total: holder.total,
            passed: holder.passed
        )
    }

    /// Once for all that changes in this turn of the loop: of a service that changes hands, the end is told.
    func interceptMayHaveChanged() {
        guard self.onInterceptChange != nil, !self.changeIsScheduled else { return }
        self.changeIsScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.changeIsScheduled = false
            self.onInterceptChange?()
        }
    }

    // MARK: Ending

    /// Takes no more clients, gives those that are there some time, tells the workspaces, and is done.
    public func shutDown() -> EventLoopFuture<Void> {
        let promise = self.eventLoop.makePromise(of: Void.self)
        self.diversion.close()
        let finish = { [weak self] in
            guard let self, self.onIdle != nil else { return }
            self.onIdle = nil
            for link in self.links.values { link.abandonAll() }
            for key in self.links.keys { self.server?.close(key, .noError) }
            self.server?.stopListening()
            // The closes leave with this turn of the loop; whoever didn't get one finds the carrier closed.
            self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(50)) { promise.succeed(()) }
        }
        self.onIdle = finish
        self.log.info("ending", metadata: ["open": "\(self.clients)"])
        if self.clients == 0 { finish() }
        self.eventLoop.assumeIsolated().scheduleTask(in: self.configuration.shutdownDrain) { finish() }
        return promise.futureResult
    }

    // MARK: Metrics

    /// For a scrape: name, labels and value of each.
    public var measurements: SidecarMeasurements {
        var result = SidecarMeasurements()
        result.clients = self.clients
        result.intercepted = self.interceptedTotal
        result.passed = self.passedTotal
        result.isDiverting = self.holder?.isDiverting ?? false
        for link in self.links.values {
            let status = link.status
            result.bytesIn += status.bytesIn
            result.bytesOut += status.bytesOut
            result.openStreams += Int(status.open)
            if let statistics = link.withConnection({ $0.statistics }) {
                result.messagesSent += statistics.messagesSent
                result.messagesReceived += statistics.messagesReceived
                result.messagesLost += statistics.messagesLost
            }
        }
        if let server = self.server {
            result.drops = DropReason.allCases.map { ($0.label, server.drops[$0]) }
        }
        return result
    }
}

/// What `--metrics` shows.
public struct SidecarMeasurements {
    public var clients = 0
    public var intercepted: UInt64 = 0
    public var passed: UInt64 = 0
    public var isDiverting = false
    public var openStreams = 0
    public var bytesIn: UInt64 = 0
    public var bytesOut: UInt64 = 0
    public var messagesSent: UInt64 = 0
    public var messagesReceived: UInt64 = 0
    public var messagesLost: UInt64 = 0
    public var drops: [(reason: String, count: UInt64)] = []
}

/// The agent can't begin: what it wanted to do, and why that failed.
public struct StartError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }

    public init(_ what: String, _ error: any Error) {
        self.description = "\(what): \(Failure.describe(error))."
    }
}

extension SidecarAgent: TunnelServer.Delegate {
    public func tunnelServer(_ server: TunnelServer, did event: Responder.Event) {
        switch event {
        case .established(let key):
            self.links[key] = WorkspaceLink(key: key, server: server, agent: self)
            self.log.info("workspace connected", metadata: ["key": "\(key.abbreviated)"])
        case .resumed(let key):
            self.log.debug("workspace is back on a new carrier", metadata: ["key": "\(key.abbreviated)"])
            self.links[key]?.resumed()
        case .connection(let key, let event):
            self.links[key]?.handle(event)
            if case .ended = event { self.links[key] = nil }
        case .closeCarrier: break
        }
    }

    public func tunnelServer(_ server: TunnelServer, dropped reason: DropReason, from remote: SocketAddress?) {
        guard let count = self.drops.shouldLog(reason) else { return }
        let from = Endpoint(host: remote?.ipAddress ?? "unknown", port: UInt16(clamping: remote?.port ?? 0))
        var metadata: Logger.Metadata = ["reason": "\(reason.label)", "from": "\(from)", "since_last": "\(count)"]
        if reason == .oldTimestamp, let times = server.lastOldTimestamp {
            metadata["sent"] = "\(times.sent.unixSeconds)"
            metadata["greatest"] = "\(times.greatest.unixSeconds)"
        }
        self.log.notice("dropped a message, silently", metadata: metadata)
    }
}
