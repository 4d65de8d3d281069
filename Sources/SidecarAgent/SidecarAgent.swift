import Carriers
public import Diversion
public import InterceptModel
import InterceptProtocol
public import Logging
public import NIOCore
import NIOPosix
public import Noise
public import Tunnel

/// The agent next to the service: accepts the service's clients and passes each to the workspace or to the original.
///
/// Lives on one event loop, as do the tunnel, its carriers and all sockets.
public final class SidecarAgent {
    public struct Configuration: Sendable {
        public var staticKey: StaticKeyPair
        public var peers: [AcceptedKey]
        public var presharedKey: PresharedKey = .none
        public var tunnel = TunnelConfiguration()
        public var tunnelAddress: Endpoint
        /// Where workspaces' datagrams are received; nil: datagrams aren't used.
        public var datagramAddress: Endpoint?
        public var servedPorts: [ServedPort]
        /// How clients reach this agent in place of the service.
        public var divert: Divert
        /// See `RedirectDiversion.Configuration`.
        public var ownerDescriptor: CInt?
        public var log: Logger
        /// Listening sockets opened beforehand, used instead of opening own ones.
        public var sockets = Sockets()
        /// Nil: as much as is usual.
        public internal(set) var memory: MemoryLimits?
        /// The process's limit of open descriptors.
        public var descriptorLimit = 1_024
        /// How long open connections may continue once the agent is told to end.
        public var shutdownDrain = TimeAmount.seconds(10)
        /// How long nobody is connected or holds a port until `onUnused` is called. Nil: `linger`, and only connections count.
        public var idle: TimeAmount?
        /// Whether a workspace may take the service over from another.
        public var allowsTakeover = false
        /// Whether a workspace may have clients reset, instead of passed to the original, while it can't serve them.
        public var allowsRefuse = false
        /// The node's own addresses, which its health probes come from. Only connections from these are examined for probes.
        public var nodeAddresses: Set<String> = []

        public init(
            staticKey: StaticKeyPair,
            peers: [PublicKey],
            tunnelAddress: Endpoint,
            servedPorts: [ServedPort],
            divert: Divert,
            log: Logger
        ) {
            self.staticKey = staticKey
            self.peers = peers.map { AcceptedKey($0) }
            self.tunnelAddress = tunnelAddress
            self.servedPorts = servedPorts
            self.divert = divert
            self.log = log
        }
    }

    public enum Divert: Hashable, Sendable {
        /// The address and port to listen on for the only service port.
        case listen(Endpoint)
        /// The address to listen on for every service port.
        case listenOnAll(host: String)
        /// The kernel redirects new connections while a workspace wants them; the service keeps its port.
        case redirect(loopback: RedirectDiversion.Loopback)

        /// Where clients of a service port connect; nil: at the service's own address, as before.
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
        /// The socket of a `DialSocket`; nil: one is opened once the tunnel's address is known.
        public var dial: CInt?
        /// By service port; several if the port is listened on at several addresses.
        public var services: [ServicePort: [CInt]] = [:]

        public init() {}
    }

    /// The addresses to announce once the agent runs.
    public struct Ready: Sendable {
        public var tunnel: SocketAddress?
        /// Where datagrams are received.
        public var datagrams: Endpoint?
        public var services: [ServicePort: SocketAddress]
    }

    public let eventLoop: any EventLoop
    let log: Logger
    /// For the kernel's responses to changes that workspaces ask for; rate-limited.
    let changeLog: Logger
    let configuration: Configuration
    var server: TunnelServer?
    let diversion: any Diverting
    /// Set if the kernel redirects the clients.
    let redirect: RedirectDiversion?
    var upstreams: [Endpoint: DialTarget] = [:]
    var passed = PassedClients()
    /// By the workspace that intercepts the drained ports.
    var originalDrains: [PublicKey: OriginalsDrain] = [:]
    /// By TCP port, the last holder of all its traffic whose connection ended without a `stop`: when it returns, connections to the
    /// original aren't drained.
    var unstopped: [UInt16: PublicKey] = [:]
    private static let upstreamTimeout = TimeAmount.seconds(10)
    var links: [PublicKey: WorkspaceLink] = [:]
    /// Of accepted keys that have connected.
    var standings: [PublicKey: PeerStanding] = [:]
    /// The accepted keys of flags and file, and those that `admit` let in.
    var configured: [PublicKey: AcceptedKey] = [:]
    var admitted: [PublicKey: AcceptedKey] = [:]
    var claimsTimer: Scheduled<Void>?
    /// The claims of flags and file are entered.
    var isStarted = false
    /// For the next key whose time ends.
    var keysTimer: Scheduled<Void>?
    /// Shared by all keys that aren't accepted.
    let strangers = PeerStanding()
    /// Called for each line of the audit that is to be written, on the event loop.
    public var onAudit: ((AuditLine) -> Void)?
    /// The keys that hold ports, with these ports.
    var table = HolderTable() {
        didSet {
            self.sidesMayHaveChanged()
            self.interceptMayHaveChanged()
            self.useMayHaveChanged()
        }
    }
    /// What the table says, for each port that this agent serves.
    let sidesByPort: [ServicePort: PortSides]
    /// Called on the event loop, soon after the table has changed.
    public var onInterceptChange: (() -> Void)?
    var changeIsScheduled = false
    /// Limits the calls of `onInterceptChange`, since a workspace may start and stop as often as it likes; but what a person sees of
    /// an ordinary change must not come late. †
    var tidings = Allowance(atOnce: 32, interval: .milliseconds(20))
    /// Limits how often other sidecars' tables are read for a workspace that asks for ports: each time is several system calls. †
    var looksElsewhere = Allowance(atOnce: 16, interval: .milliseconds(50))
    /// The ports that the kernel redirects now.
    var diverted = DivertedPorts()
    /// The TCP ports of which a workspace had all traffic when the rules were last applied.
    var intercepted: Set<UInt16> = []
    var rules = RuleChanges()
    /// Of all clients that wait for a workspace's answer.
    let earlyMemory: EarlyMemory
    /// Shared by the copies for all mirrors.
    let copyMemory: CopyMemory
    private let relayMemory: RelayMemory
    let keepAlive: KeepAliveRounds
    var clients = 0
    private let clientsAtMost: Int
    /// Descriptors reserved for everything else: unauthenticated peers may have 64 byte streams in total, an accepted key 16. †
    private static let keptBack = 128
    /// The limit of UDP flows: each may need a descriptor, towards the original.
    private let flowsAtMost: Int
    private(set) lazy var flows = ServiceFlows(agent: self, atMost: self.flowsAtMost)
    var passedTotal: UInt64 = 0
    var interceptedTotal: UInt64 = 0
    /// By the failure's code.
    var refusedTotal: [String: UInt64] = [:]
    var drops = DropLog()
    /// While it ends: called when no client is left.
    var onIdle: (() -> Void)?
    /// Called on the event loop with each accepted key whose workspace has been away for `linger`, or hasn't come within that time.
    public var onAway: ((PublicKey) -> Void)? {
        didSet { for key in self.configured.keys where self.links[key] == nil { self.isAway(key) } }
    }
    /// Accepted keys that aren't connected, and when they count as away for good.
    var away: [PublicKey: NIODeadline] = [:]
    var awayTimer: Scheduled<Void>?
    var retirement: (() -> Void)?
    var unusedTimer: Scheduled<Void>?
    /// Called on the event loop, at most once: no workspace has been connected for `linger`, or with `idle` nobody has used this agent
    /// for that time.
    public var onUnused: (() -> Void)? { didSet { self.watchUse(in: self.configuration.tunnel.linger) } }
    /// A workspace has connected, or a key has been admitted.
    public internal(set) var hasBeenUsed = false
    let startedAt = NIODeadline.now()
    /// Between SIGTERM and `shutDown`: for whom the agent goes on.
    var goingOn: GoingOn?
    var isEnding = false

    /// - Precondition: called on the event loop, like every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.keepAlive = KeepAliveRounds(on: eventLoop)
        self.log = configuration.log
        self.sidesByPort = Dictionary(
            configuration.servedPorts.map { ($0.port, PortSides()) },
            uniquingKeysWith: { first, _ in first }
        )
        let changeLog = configuration.log.limited(by: LogShare())
        self.changeLog = changeLog
        let memory = configuration.memory
        self.earlyMemory = memory.map { EarlyMemory(atMost: $0.early) } ?? EarlyMemory()
        self.copyMemory = memory.map { CopyMemory(atMost: $0.copies) } ?? CopyMemory()
        self.relayMemory = memory.map { RelayMemory(atMost: $0.relays) } ?? RelayMemory()
        let setUp = memory == nil ? SocketOptions.setUp : SocketOptions.setUpThriftily
        if case .redirect(let loopback) = configuration.divert {
            var diverting = RedirectDiversion.Configuration(
                ports: configuration.servedPorts.map(\.port),
                loopback: loopback,
                log: changeLog
            )
            diverting.ownerDescriptor = configuration.ownerDescriptor
            let redirect = RedirectDiversion(
                diverting,
                eventLoop: eventLoop,
                prepare: SocketOptions.prepare,
                setUp: setUp
            )
            self.redirect = redirect
            self.diversion = redirect
        } else {
            self.redirect = nil
            self.diversion = ListenDiversion(
                eventLoop: eventLoop,
                prepare: SocketOptions.prepare,
                setUp: setUp
            )
        }
        // Each accepted client may need a second descriptor, towards the original; some are reserved for everything else.
        let hasDatagrams = configuration.servedPorts.contains { $0.port.transport == .udp }
        self.flowsAtMost = hasDatagrams ? FlowLimits.flows(ofDescriptors: configuration.descriptorLimit) : 0
        let byDescriptors = (configuration.descriptorLimit - Self.keptBack - self.flowsAtMost) / 2
        self.clientsAtMost = max(16, min(byDescriptors, memory?.clients ?? .max))
        self.copyMemory.onShortage = { [unowned self] in for link in self.links.values { link.copies.look() } }
    }

    // MARK: Clients

    func serves(_ port: ServicePort) -> Bool { self.servicePorts.contains(port) }

    var servicePorts: [ServicePort] { self.configuration.servedPorts.map(\.port) }

    func accepted(_ channel: any Channel, port: UInt16, called: SocketAddress?) {
        self.clients += 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        guard let served = self.configuration.servedPorts.first(where: { $0.port == .init(port) })
        else {
            channel.close(promise: nil)
            return self.clientIsDone()
        }
        let client = Client(
            channel: channel,
            input: UrgentInput(channel, readAtMost: self.configuration.memory?.read ?? 64 * 1_024),
            port: port,
            called: called,
            upstream: served.upstream
        )
        let sides = self.sides(of: .init(port))
        let matters = sides.holder?.takesProbes == false
        let mattersToMirrors = sides.mirrors.contains { !$0.takesProbes }
        guard matters || mattersToMirrors, self.mayBeProbe(client) else { return self.decide(client) }
        // Only copies wait until that is known: nobody's client waits because of a mirror.
        guard matters else { return self.decide(client, isProbe: nil) }
        let detector = ProbeDetector(channel: channel) { [weak self] finding in
            switch finding {
            case .probe: self?.decide(client, isProbe: true)
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

    /// The client connects from where probes come from.
    private func mayBeProbe(_ client: Client) -> Bool {
        guard !self.configuration.nodeAddresses.isEmpty, let address = client.channel.remoteAddress else {
            return false
        }
        // An IPv4 client of an IPv6 socket counts as an IPv4 client.
        let seen = ClientAddress(address).socketAddress?.ipAddress
        return seen.map { self.configuration.nodeAddresses.contains($0) } ?? false
    }

    /// Passes the client to the port's default side, a workspace or the original, which may still get it later: see
    /// `BridgedSocket`.
    ///
    /// - Parameter isProbe: nil: it may be one, but the default side is the same either way.
    private func decide(_ client: Client, isProbe: Bool? = false) {
        let sides = self.sides(of: .init(client.port))
        // What the workspace gets while the sidecar ends would be reset with the rest when the drain time is over.
        guard !self.isEnding else { return self.passOn(client, countedFor: nil) }
        // The tap is added before the handler that passes the client on.
        if !sides.mirrors.isEmpty { self.copy(client, isProbe: isProbe, sides) }
        guard let holder = sides.holder, holder.takesProbes || isProbe != true else {
            return self.passOn(client, countedFor: nil)
        }
        if let side = sides.defaultSide, !side.isSilent, side.open(client) {
            self.interceptedTotal += 1
            return
        }
        self.passOn(client, countedFor: holder)
    }

    /// Passes a client to the original, with everything that it has sent so far.
    func passOn(
        _ client: Client,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        countedFor link: WorkspaceLink?
    ) {
        let channel = client.channel
        if let link, link.holding?.refuses == true {
            channel.closeWithReset()
            return self.clientIsDone()
        }
        link?.passed += 1
        self.passedTotal += 1
        let (port, number) = (client.port, self.passed.add(channel, on: client.port))
        let relay = ChannelRelay(
            client: channel,
            memory: self.relayMemory,
            keepAlive: self.keepAlive,
            input: client.input,
            firstBytes: firstBytes,
            inputIsClosed: inputIsClosed
        ) { [weak self] in
            self?.passed.remove(number, on: port)
            self?.clientIsDone()
        }
        guard let target = self.original(of: client),
            (try? channel.pipeline.syncOperations.addHandler(relay)) != nil
        else {
            channel.closeWithReset()
            self.passed.remove(number, on: port)
            return self.clientIsDone()
        }
        let own = self.ownSocket(
            to: client.upstream,
            .init(client.port),
            for: channel.remoteAddress,
            calling: client.called
        )
        self.connect(to: target, by: own, timeout: Self.upstreamTimeout).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let original): relay.join(original)
            case .failure: relay.refuse()
            }
        }
    }

    private func original(of client: Client) -> DialTarget? {
        self.original(at: client.upstream, port: client.port, called: client.called)
    }

    /// The original's address to dial for a client; nil if the client may not reach one.
    ///
    /// Behind a redirect, this is only the address that the client called: otherwise another host could reach, through the
    /// sidecar, servers that listen on the namespace's loopback only. An address given by a flag is dialled as it is.
    func original(at upstream: Endpoint, port: UInt16, called: SocketAddress?) -> DialTarget? {
        guard self.isWhereCalled(upstream, port) else { return self.upstreams[upstream] }
        return called.map { DialTarget(addresses: [$0]) }
    }

    func clientIsDone() {
        self.clients -= 1
        self.diversion.pause(self.clients >= self.clientsAtMost)
        guard self.clients == 0 else { return }
        self.onIdle?()
        self.retireIfIdle()
    }

    // MARK: Flows of UDP clients

    func upstream(of port: ServicePort) -> Endpoint? {
        self.configuration.servedPorts.first { $0.port == port }?.upstream
    }

    func flowWasIntercepted() { self.interceptedTotal += 1 }

    func flowWasPassed(countedFor link: WorkspaceLink?) {
        link?.passed += 1
        self.passedTotal += 1
    }
}

/// The agent can't start: what it tried to do, and why that failed.
public struct StartError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }

    public init(_ what: String, _ error: any Error) {
        self.description = "\(what): \(SocketError.describe(error))."
    }
}
