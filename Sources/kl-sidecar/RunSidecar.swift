import ArgumentParser
import Carriers
import CommandText
import Diversion
import HostSupport
import InterceptModel
import InterceptProtocol
import KeyFiles
import Logging
import NIOCore
import NIOPosix
import Noise
import ProgramSupport
import SidecarAgent
import SidecarInterface
import Tunnel

struct RunSidecar: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run the sidecar until it is told to end.",
        discussion: """
            Prints one JSON line on standard output when it is ready: its public key, and where it listens. Connections \
            reach the original service from then on, and a workspace once one has asked for them.
            """
    )

    @Option(
        help: ArgumentHelp(
            "Accept the workspace with this public key; may be repeated. What it may do can stand behind the key, as in the peers "
                + "file: 'KEY may=mirror ports=80 until=2026-12-01T00:00:00Z'.",
            valueName: "key"
        ),
        transform: Self.peer
    )
    var peer: [AcceptedKey] = []

    @Option(
        help: ArgumentHelp(
            "Accept the workspaces whose keys are in this file, one a line, with what each may do; re-read when it changes.",
            valueName: "file"
        )
    )
    var peersFile: String?

    @Option(
        help: ArgumentHelp("Where workspaces dial in over TCP; port 0 is any free one.", valueName: "host:port"),
        transform: { try Flags.endpoint($0, zeroAllowed: true) }
    )
    var listenTcp: Endpoint

    @Option(
        help: ArgumentHelp(
            "Where workspaces dial in over UDP too, which loses less to bad networks; port 0 is any free one. Without it "
                + "they use TCP alone.",
            valueName: "host:port"
        ),
        transform: { try Flags.endpoint($0, zeroAllowed: true) }
    )
    var listenUdp: Endpoint?

    @Option(
        help: ArgumentHelp(
            "A port of the service, and where the original answers, with /udp after it for UDP; may be repeated.",
            valueName: "port[:host:port][/udp]"
        ),
        transform: { try ServedPort($0) }
    )
    var servicePort: [ServedPort]

    @Option(
        help: ArgumentHelp(
            "How connections are taken: listen=ADDRESS:PORT (one service port) or listen=ADDRESS (several), or redirect: "
                + "by the kernel, which needs CAP_NET_ADMIN in the service's network namespace.",
            valueName: "way"
        ),
        transform: { try DivertFlag($0) }
    )
    var divert: DivertFlag

    @Option(
        help: ArgumentHelp(
            "With redirect: the service's network namespace, which is entered once the tunnel listens; needs root.",
            valueName: "path|pid:n"
        ),
        transform: {
            do throws(DiversionError) { return try NetworkNamespace(flag: $0) } catch {
                throw ValidationError(error.description)
            }
        }
    )
    var netns: NetworkNamespace?

    @Option(
        help: """
            With redirect: who answers connections over the loopback of the service's namespace, where health checks come \
            from: original or workspace. (default: workspace on a plain host, otherwise original)
            """
    )
    var loopback: RedirectDiversion.Loopback?

    @Option(
        help: ArgumentHelp(
            "An address from which the node's health probes come, or gateway for the network's default gateways: where a workspace "
                + "leaves them to the original, connections from there are looked at; may be repeated.",
            valueName: "ip"
        ),
        transform: Self.address
    )
    var nodeAddress: [String] = []

    @Flag(
        help: """
            End when no workspace has been connected for the linger time, or when the namespace has no interface left but \
            the loopback: for a sidecar that is started for an intercept.
            """
    )
    var ephemeral = false

    @Option(
        help: ArgumentHelp(
            "With --ephemeral: end only when nobody has been connected, or has held a port, for so long; or 2 min after the start if "
                + "nobody has come.",
            valueName: "time"
        ),
        transform: TimeAmount.flag
    )
    var idle: TimeAmount?

    @Option(
        help: ArgumentHelp(
            "How long after SIGTERM this program is killed, such as a pod's grace period: until a second before that, go on for the "
                + "workspaces that are here while the original still listens.",
            valueName: "time"
        ),
        transform: TimeAmount.flag
    )
    var grace: TimeAmount?

    @Flag(help: "Let a workspace take the service from the one that has it.")
    var allowTakeover = false

    @Flag(help: "Let a workspace have clients reset where it can't answer, in place of the original's answer.")
    var allowRefuse = false

    @Flag(help: "Print the ready line again, with who intercepts, each time that this changes.")
    var announceIntercepts = false

    @Option(
        help: ArgumentHelp("How long open connections outlive a lost workspace.", valueName: "time"),
        transform: TimeAmount.flag
    )
    var linger: TimeAmount = .minutes(10)

    @Option(
        help: ArgumentHelp("A workspace that has not answered for so long is gone; at least 1s.", valueName: "time"),
        transform: TimeAmount.flag
    )
    var deadAfter: TimeAmount = .seconds(6)

    @Option(
        help: ArgumentHelp(
            "What buffers may take in all, such as 32m; at least 8m. (default: what a host can spare)",
            valueName: "size"
        ),
        transform: { try Flags.bytes($0) }
    )
    var memory: Int?

    @Option(
        help: ArgumentHelp("Serve Prometheus metrics at http://HOST:PORT/metrics.", valueName: "host:port"),
        transform: { try Flags.endpoint($0, zeroAllowed: true) }
    )
    var metrics: Endpoint?

    @OptionGroup var agent: AgentOptions

    private static func peer(_ text: String) throws -> AcceptedKey {
        let admission = try Admission(line: text)
        return AcceptedKey(try PublicKey.flag(admission.publicKey), admission)
    }

    /// In `--node-address`.
    private static let gateway = "gateway"

    private static func address(_ text: String) throws -> String {
        if text == Self.gateway { return text }
        guard let address = try? SocketAddress(ipAddress: text, port: 0), let canonical = address.ipAddress else {
            throw ValidationError("'\(text)' isn't an IP address. Write one, or gateway.")
        }
        return canonical
    }

    func validate() throws {
        if self.peer.isEmpty, self.peersFile == nil {
            throw ValidationError(
                "No workspace could connect. Name a workspace's public key by --peer, or a file of them by --peers-file."
            )
        }
        for (key, peers) in Dictionary(grouping: self.peer, by: \.key) where Set(peers).count > 1 {
            throw ValidationError("Two --peer have the key \(key.base64), with other rights. Write one for each key.")
        }
        if self.deadAfter < .seconds(1) { throw ValidationError("--dead-after must be at least 1s.") }
        if let memory = self.memory, memory < MemoryLimits.atLeast {
            throw ValidationError("--memory must be at least \(MemoryLimits.atLeast / 1_024 / 1_024)m.")
        }
        if self.idle != nil, !self.ephemeral { throw ValidationError("--idle goes with --ephemeral alone.") }
        if self.servicePort.isEmpty { throw ValidationError("No port to serve. Name one by --service-port.") }
        if self.divert != .redirect {
            for (flag, isGiven) in [("--netns", self.netns != nil), ("--loopback", self.loopback != nil)] where isGiven
            {
                throw ValidationError("\(flag) goes with --divert redirect alone.")
            }
        }
        if case .listen = self.divert, self.servicePort.count > 1 {
            throw ValidationError(
                "--divert listen=ADDRESS:PORT serves one --service-port. For several write listen=ADDRESS."
            )
        }
        do throws(FlagError) {
            try Flags.checkDistinct(self.servicePort)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        HostSupport.Process.fillStandardInput()
        HostSupport.Process.holdEndAndReloadSignals()
        var sockets = ActivatedSockets.inherited()
        let notifier = ServiceNotifier.inherited()
        HostSupport.Process.forbidCoreDumps()
        let descriptors = HostSupport.Process.raiseDescriptorLimit()
        HostSupport.Process.keepFreedMemory()
        let log = self.agent.logger("kl-sidecar")

        var configuration = SidecarAgent.Configuration(
            staticKey: try self.agent.staticKey(),
            peers: [],
            tunnelAddress: self.listenTcp,
            servedPorts: self.servicePort,
            divert: self.divert.resolved(loopback: self.loopback ?? self.usualLoopback),
            log: log
        )
        configuration.peers = self.peer
        configuration.allowsTakeover = self.allowTakeover
        configuration.allowsRefuse = self.allowRefuse
        if let peersFile = self.peersFile {
            configuration.peers += try PeersFile(contentsOf: peersFile).peers.map(AcceptedKey.init)
        }
        configuration.presharedKey = try self.agent.presharedKey()
        configuration.tunnel.linger = self.linger
        configuration.tunnel.deadAfter = self.deadAfter
        configuration.tunnel.maxStreamsFromPeer = 1
        configuration.idle = self.idle
        if let memory = self.memory { configuration.limitMemory(to: memory) }
        configuration.descriptorLimit = descriptors
        // The lowest descriptor; this program doesn't read its standard input.
        configuration.ownerDescriptor = 0
        configuration.datagramAddress = self.listenUdp
        configuration.sockets = self.take(&sockets)
        // Only this thread, and the threads it creates later, enter the namespace. So everything that listens outside is
        // opened before.
        var opened: [ListeningSocket] = []
        var metrics = MetricsPlace(endpoint: self.metrics)
        var admission: CInt?
        if let netns = self.netns {
            var tunnel = self.listenTcp
            if configuration.sockets.tunnel.isEmpty {
                let socket = try Self.listen(self.listenTcp, "The tunnel")
                configuration.sockets.tunnel = [socket.descriptor]
                tunnel.port = socket.port
                opened.append(socket)
            }
            // If this fails, the agent opens one in the namespace, and logs it if that fails, too.
            configuration.sockets.dial = try? DialSocket.listen(for: "\(tunnel)")
            admission = try? AdmissionSocket.listen(for: "\(tunnel)")
            if let endpoint = self.listenUdp {
                configuration.sockets.datagrams = try Self.openDatagrams(endpoint)
            }
            if let endpoint = self.metrics {
                let socket = try Self.listen(endpoint, "The metrics' server")
                metrics.socket = socket.descriptor
                opened.append(socket)
            }
            try netns.enter()
        }
        configuration.nodeAddresses = self.nodeAddresses(log)
        for socket in sockets.sockets {
            log.warning(
                "a socket that was handed over serves no port of this sidecar",
                metadata: ["name": "\(socket.name)"]
            )
        }

        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let program = SidecarProgram(
            configuration,
            metrics: metrics,
            options: .init(
                isEphemeral: self.ephemeral,
                grace: self.grace,
                announcesIntercepts: self.announceIntercepts,
                admissionSocket: admission
            ),
            peersFile: self.peersFile,
            peers: self.peer,
            notifier: notifier,
            eventLoop: eventLoop
        )
        let bound = try eventLoop.submit { NIOLoopBound(program.build(), eventLoop: eventLoop) }.wait()
        eventLoop.execute { bound.value.start() }
        defer { withExtendedLifetime(opened) {} }

        while HostSupport.Process.nextSignal() == .reload { eventLoop.execute { bound.value.reload() } }
        eventLoop.execute { bound.value.terminate() }
        // A second signal ends the program at once.
        _ = HostSupport.Process.nextEndSignal()
        Ending(name: "kl-sidecar", saying: nil, code: Ending.interrupted).exit()
    }

    /// Of the network in which this thread is.
    private func nodeAddresses(_ log: Logger) -> Set<String> {
        var addresses = Set(self.nodeAddress)
        guard addresses.remove(Self.gateway) != nil else { return addresses }
        do throws(DiversionError) {
            let gateways = try DefaultGateways.addresses()
            if gateways.isEmpty { log.notice("--node-address gateway: this network has no default gateway") }
            addresses.formUnion(gateways)
        } catch {
            log.warning("--node-address gateway: health probes may reach a workspace: \(error)")
        }
        return addresses
    }

    /// A plain host's services are also called over its loopback; in a container, health checks come from there.
    private var usualLoopback: RedirectDiversion.Loopback {
        self.netns == nil && PlainHost.isThis ? .workspace : .original
    }

    private static func listen(_ endpoint: Endpoint, _ what: String) throws -> ListeningSocket {
        do throws(HostError) {
            return try ListeningSocket(host: endpoint.host, port: endpoint.port)
        } catch {
            throw StartError("\(what) can't listen on \(endpoint)", error)
        }
    }

    private static func openDatagrams(_ endpoint: Endpoint) throws -> (CInt, Bool, UInt16) {
        do {
            return try TunnelServer.openDatagrams(host: endpoint.host, port: Int(endpoint.port))
        } catch {
            throw StartError("The tunnel can't take datagrams at \(endpoint)", error)
        }
    }

    /// A socket goes to the service port for which the sidecar would otherwise listen on that socket's port.
    private func take(_ sockets: inout ActivatedSockets) -> SidecarAgent.Sockets {
        var result = SidecarAgent.Sockets()
        result.tunnel = sockets.take(named: "tunnel")
        for port in self.servicePort.map(\.port) {
            guard let endpoint = self.divert.endpoint(of: port.number) else { continue }
            let taken = sockets.take(port: endpoint.port, isUDP: port.transport == .udp)
            if !taken.isEmpty { result.services[port] = taken }
        }
        return result
    }
}
