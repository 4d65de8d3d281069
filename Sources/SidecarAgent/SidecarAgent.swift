public import Carriers
public import Diversion
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
        /// Where workspaces' datagrams come; nil: nowhere.
        public var datagramAddress: Endpoint?
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
        /// The node's own addresses, from where its health probes come: only in connections from there are they looked for.
        public var nodeAddresses: Set<String> = []

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
        /// The kernel redirects new connections, while a workspace wants them; the service keeps its port.
        case redirect(loopback: RedirectDiversion.Loopback)

        /// Where clients of a service port connect; nil: where they always did, at the service.
        public func endpoint(of port: UInt16) -> Endpoint? {
            switch self {
            case .listen(let endpoint): endpoint
            case .listenOnAll(let host): Endpoint(host: host, port: port)
            case .redirect: nil
            }
        }
    }

    public struct Sockets: Sendable {
        public var tunnel: [CInt] = []
        /// A bound socket for datagrams.
        public var datagrams: (descriptor: CInt, isIPv6: Bool, port: UInt16)?
        /// Of `DialSocket`; nil: one is opened once it is known where the tunnel listens.
        public var dial: CInt?
        /// By service port; more than one where the port has several addresses.
        public var services: [UInt16: [CInt]] = [:]

        public init() {}
    }

    /// What is to be told once it runs.
    public struct Ready: Sendable {
        public var tunnel: SocketAddress?
        /// Where datagrams are taken.
        public var datagrams: Endpoint?
        public var services: [UInt16: SocketAddress]
    }

    public let eventLoop: any EventLoop
    let log: Logger
    private let configuration: Configuration
    private var server: TunnelServer?
    private let diversion: any Diverting
    /// The kernel's part, where it has one.
    private let redirect: RedirectDiversion?
    private var upstreams: [Endpoint: DialTarget] = [:]
    /// Of ports that were diverted afresh: what is still open to the original then is ended.
    private var originalsDrain: Scheduled<Void>?
    /// The holder whose connection was lost with its intercept in force: its return is no fresh start.
    private var unstopped: PublicKey?
    private static let upstreamTimeout = TimeAmount.seconds(10)
    private var links: [PublicKey: WorkspaceLink] = [:]
    private(set) var holder: WorkspaceLink? { didSet { self.interceptMayHaveChanged() } }
    /// Called on the event loop, soon after who gets new connections has changed.
    public var onInterceptChange: (() -> Void)?
    private var changeIsScheduled = false
    /// What the kernel redirects.
    private var diverted: Set<UInt16> = []
    /// What all clients that wait for an answer have said so far.
    var keptBytes = 0
    private let relayMemory = RelayMemory()
    private var clients = 0
    private let clientsAtMost: Int
    private var passedTotal: UInt64 = 0
    private var interceptedTotal: UInt64 = 0
    private var drops = DropLog()
    private var onIdle: (() -> Void)?
    private var unusedTimer: Scheduled<Void>?
    private var isEnding = false

    /// - Precondition: called on the event loop, as every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.log = configuration.log
        if case .redirect(let loopback) = configuration.divert {
            let ports = configuration.servicePorts.map(\.port)
            let redirect = RedirectDiversion(
                .init(ports: ports, loopback: loopback, log: configuration.log),
                eventLoop: eventLoop
            )
            self.redirect = redirect
            self.diversion = redirect
        } else {
            self.redirect = nil
            self.diversion = ListenDiversion(eventLoop: eventLoop)
        }
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
            this.value.listenForDatagrams().map { (tunnel, $0) }
        }.flatMap { tunnel, datagrams in
            this.value.listenForClients().map { Ready(tunnel: tunnel, datagrams: datagrams, services: $0) }
        }
    }

    private func listenForDatagrams() -> EventLoopFuture<Endpoint?> {
        guard let server = self.server, var endpoint = self.configuration.datagramAddress else {
            return self.eventLoop.makeSucceededFuture(nil)
        }
        do {
            if let socket = self.configuration.sockets.datagrams {
                server.listenForDatagrams(onBoundSocket: socket.descriptor, isIPv6: socket.isIPv6)
                endpoint.port = socket.port
            } else {
                endpoint.port = try server.listenForDatagrams(host: endpoint.host, port: Int(endpoint.port))
            }
            return self.eventLoop.makeSucceededFuture(endpoint)
        } catch {
            return self.eventLoop.makeFailedFuture(StartError("The tunnel can't take datagrams at \(endpoint)", error))
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
        do throws(StartError) {
            for servicePort in self.configuration.servicePorts { try self.lookUp(servicePort.upstream) }
        } catch {
            return self.eventLoop.makeFailedFuture(error)
        }
        if let redirect = self.redirect {
            return redirect.start { [weak self] channel, port, called in
                self?.accepted(channel, port: port, called: called)
            }.map { [:] }
        }
        guard let listen = self.diversion as? ListenDiversion else { return self.eventLoop.makeSucceededFuture([:]) }
        let futures = self.configuration.servicePorts.flatMap {
            servicePort -> [EventLoopFuture<(UInt16, SocketAddress?)>] in
            let port = servicePort.port
            guard let endpoint = self.configuration.divert.endpoint(of: port) else { return [] }
            let sockets = self.configuration.sockets.services[port] ?? []
            let sources: [ListenDiversion.Source] =
                sockets.isEmpty
                ? [.address(host: endpoint.host, port: Int(endpoint.port))] : sockets.map { .socket($0) }
            return sources.map { source in
                listen.listen(on: source) { [weak self] in self?.accepted($0, port: port, called: $0.localAddress) }
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

    private func lookUp(_ upstream: Endpoint) throws(StartError) {
        do {
            // A service that is told "localhost" may listen on ::1 alone.
            self.upstreams[upstream] =
                upstream.host == "127.0.0.1"
                ? DialTarget(loopbackPort: Int(upstream.port))
                : try DialTarget(host: upstream.host, port: Int(upstream.port))
        } catch {
            throw StartError("The original's address \(upstream) can't be looked up", error)
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

    private func accepted(_ channel: any Channel, port: UInt16, called: SocketAddress?) {
        self.clients += 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        guard let servicePort = self.configuration.servicePorts.first(where: { $0.port == port }) else {
            channel.close(promise: nil)
            return self.clientIsDone()
        }
        let client = Client(
            channel: channel,
            port: port,
            called: called,
            upstream: servicePort.upstream
        )
        guard let holder = self.holder, holder.wants(port), self.mayBeProbe(client, for: holder) else {
            return self.decide(client)
        }
        let detector = ProbeDetector(channel: channel) { [weak self] finding in
            switch finding {
            case .probe(let said, let inputIsClosed):
                self?.passOn(client, firstBytes: said, inputIsClosed: inputIsClosed, countedFor: nil)
            case .other: self?.decide(client)
            case .gone: self?.clientIsDone()
            }
        }
        do {
            try channel.pipeline.syncOperations.addHandler(detector)
        } catch {
            channel.close(promise: nil)
            return self.clientIsDone()
        }
        detector.start()
    }

    private func mayBeProbe(_ client: Client, for holder: WorkspaceLink) -> Bool {
        guard holder.intercept?.probes == .original, !self.configuration.nodeAddresses.isEmpty,
            let address = client.channel.remoteAddress
        else { return false }
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        let seen = ClientAddress(address).socketAddress?.ipAddress
        return seen.map { self.configuration.nodeAddresses.contains($0) } ?? false
    }

    /// The workspace gets it, or the original.
    private func decide(_ client: Client) {
        guard let holder = self.holder, holder.wants(client.port) else {
            return self.passOn(client, countedFor: nil)
        }
        if holder.isDiverting, holder.open(client) {
            self.interceptedTotal += 1
            return
        }
        self.passOn(client, countedFor: holder)
    }

    /// Gives a client to the original service, with all that it has said so far.
    func passOn(
        _ client: Client,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        countedFor link: WorkspaceLink?
    ) {
        let channel = client.channel
        if let link, link.intercept?.onUnavailable == .refuse {
            channel.closeWithReset()
            return self.clientIsDone()
        }
        link?.passed += 1
        self.passedTotal += 1
        let relay = ChannelRelay(
            client: channel,
            memory: self.relayMemory,
            firstBytes: firstBytes,
            inputIsClosed: inputIsClosed
        ) { [weak self] in self?.clientIsDone() }
        guard let target = self.original(of: client),
            (try? channel.pipeline.syncOperations.addHandler(relay)) != nil
        else {
            channel.closeWithReset()
            return self.clientIsDone()
        }
        let mark = self.redirect == nil ? nil : RedirectDiversion.mark
        target.connect(on: self.eventLoop, timeout: Self.upstreamTimeout, mark: mark).assumeIsolated().whenComplete {
            result in
            switch result {
            case .success(let original): relay.join(original)
            case .failure: relay.refuse()
            }
        }
    }

    /// Where the service answers this client. Behind a redirect it is where the client called it, or else on the loopback:
    /// services bind to any of them.
    private func original(of client: Client) -> DialTarget? {
        let upstream = self.upstreams[client.upstream]
        guard self.redirect != nil, client.upstream == Endpoint(host: "127.0.0.1", port: client.port),
            let called = client.called
        else { return upstream }
        return DialTarget(addresses: [called] + (upstream?.addresses ?? []).filter { $0 != called })
    }

    func clientIsDone() {
        self.clients -= 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        if self.clients == 0 { self.onIdle?() }
    }

    // MARK: Who has the service

    /// - Returns: why the kernel wouldn't; then all is as it was.
    func hold(_ link: WorkspaceLink, drainSeconds: Int, isFresh: Bool) -> DiversionError? {
        let before = self.holder
        self.holder = link
        let fresh = isFresh && self.unstopped != link.key
        do throws(DiversionError) {
            let added = try self.applyDiversion()
            self.unstopped = nil
            if fresh, !added.isEmpty { self.drainOriginals(added, in: .seconds(Int64(drainSeconds))) }
            return nil
        } catch {
            self.holder = before
            return error
        }
    }

    func releaseHolder(_ link: WorkspaceLink, isStopped: Bool) {
        guard self.holder === link else { return }
        self.unstopped = isStopped ? nil : link.key
        self.holder = nil
        self.diversionMayHaveChanged()
    }

    /// Which ports the kernel is to redirect has changed, as something was lost or given back.
    func diversionMayHaveChanged() {
        do throws(DiversionError) {
            try self.applyDiversion()
        } catch {
            // The dead-man set runs out by itself.
            self.log.error("the diversion can't be changed: \(error)")
        }
    }

    /// - Returns: the ports that weren't diverted before.
    @discardableResult
    private func applyDiversion() throws(DiversionError) -> Set<UInt16> {
        guard let redirect = self.redirect else { return [] }
        let ports = self.holder?.divertedPorts ?? []
        let before = self.diverted
        guard ports != before else { return [] }
        if ports.isEmpty {
            self.originalsDrain?.cancel()
            self.originalsDrain = nil
        }
        try redirect.divert(ports)
        self.diverted = ports
        return ports.subtracting(before)
    }

    /// Connections that were open to the original before get the drain time, and are then ended at both ends: a client with
    /// a connection that it keeps comes to the workspace too.
    private func drainOriginals(_ ports: Set<UInt16>, in delay: TimeAmount) {
        self.originalsDrain?.cancel()
        self.originalsDrain = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self, let redirect = self.redirect else { return }
            let still = ports.intersection(self.diverted)
            guard !still.isEmpty else { return }
            let ended = redirect.endOriginalConnections(on: still).map { "\($0)" } ?? "as they speak"
            self.log.info(
                "the drain time is over: connections to the original are ended",
                metadata: ["count": "\(ended)"]
            )
        }
    }

    func closeConnection(of key: PublicKey, _ code: ErrorCode) { self.server?.close(key, code) }

    /// Who intercepts, as the environment is told it.
    public struct Intercept: Equatable, Sendable {
        /// Who gets new connections; nil: the original does.
        public var divertingTo: PublicKey?
        /// Whose the service is, also while its workspace can't be reached; nil: nobody's.
        public var holder: Holder?
        /// Of the holder's.
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0

        public init() {}
    }

    public struct Holder: Equatable, Sendable {
        public var key: PublicKey
        public var workspace: String
        /// RFC 3339, UTC.
        public var since: String
        public var generation: UInt64
        public var ports: [UInt16]
    }

    public var intercept: Intercept {
        guard let holder = self.holder else { return Intercept() }
        var intercept = Intercept()
        intercept.divertingTo = holder.isDiverting ? holder.key : nil
        intercept.holder = Holder(
            key: holder.key,
            workspace: holder.name,
            since: holder.since?.rfc3339 ?? "",
            generation: holder.intercept?.generation ?? 0,
            ports: holder.intercept?.ports.map(\.service) ?? []
        )
        intercept.open = UInt64(holder.openCount)
        intercept.total = holder.total
        intercept.passed = holder.passed
        return intercept
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

    /// Nobody has been connected for `linger`. Called on the event loop, at most once.
    public var onUnused: (() -> Void)? { didSet { self.watchUse(in: self.configuration.tunnel.linger) } }

    private func watchUse(in delay: TimeAmount) {
        self.unusedTimer?.cancel()
        guard self.onUnused != nil, self.links.isEmpty, !self.isEnding else { return }
        self.unusedTimer = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self, self.links.isEmpty, !self.isEnding else { return }
            self.onUnused?()
        }
    }

    /// Takes no more clients, gives those that are there some time, tells the workspaces, and is done.
    public func shutDown() -> EventLoopFuture<Void> {
        let promise = self.eventLoop.makePromise(of: Void.self)
        self.isEnding = true
        self.unusedTimer?.cancel()
        self.originalsDrain?.cancel()
        if let redirect = self.redirect {
            // What was redirected and isn't accepted yet still comes, and is passed on.
            self.diverted = []
            do throws(DiversionError) { try redirect.divert([]) } catch {
                self.log.error("the diversion can't be withdrawn: \(error)")
            }
        } else {
            self.diversion.close()
        }
        let finish = { [weak self] in
            guard let self, self.onIdle != nil else { return }
            self.onIdle = nil
            self.diversion.close()
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
            self.unusedTimer?.cancel()
            self.links[key] = WorkspaceLink(key: key, server: server, agent: self)
            self.log.info("workspace connected", metadata: ["key": "\(key.abbreviated)"])
        case .resumed(let key):
            self.log.debug("workspace is back on a new carrier", metadata: ["key": "\(key.abbreviated)"])
            self.links[key]?.resumed()
        case .moved(let key):
            self.log.debug("workspace goes on by another way", metadata: ["key": "\(key.abbreviated)"])
        case .connection(let key, let event):
            self.links[key]?.handle(event)
            if case .ended(let end) = event {
                self.links[key] = nil
                // Who didn't come back for `linger` has had the time already.
                self.watchUse(in: end.origin == .lingerOver ? .zero : self.configuration.tunnel.linger)
            }
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
