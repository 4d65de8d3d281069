import AgentSupport
import ArgumentParser
import Carriers
import InterceptProtocol
import KeyFiles
import Logging
import NIOCore
import NIOPosix
import Noise
import SidecarAgent
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
        help: ArgumentHelp("Accept the workspace with this public key; may be repeated.", valueName: "key"),
        transform: PublicKey.flag
    )
    var peer: [PublicKey] = []

    @Option(
        help: ArgumentHelp(
            "Accept the workspaces whose keys are in this file, one a line; re-read when it changes.",
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
            "Where workspaces dial in over UDP: not in this version, which only warns.",
            valueName: "host:port"
        )
    )
    var listenUdp: String?

    @Option(
        help: ArgumentHelp(
            "A port of the service, and where the original answers; may be repeated.",
            valueName: "port[:host:port]"
        ),
        transform: { try ServicePort($0) }
    )
    var servicePort: [ServicePort]

    @Option(
        help: ArgumentHelp(
            "How connections are taken: listen=ADDRESS:PORT (one service port) or listen=ADDRESS (several).",
            valueName: "way"
        ),
        transform: Self.divert
    )
    var divert: SidecarAgent.Divert

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
        help: ArgumentHelp("Serve Prometheus metrics at http://HOST:PORT/metrics.", valueName: "host:port"),
        transform: { try Flags.endpoint($0, zeroAllowed: true) }
    )
    var metrics: Endpoint?

    @OptionGroup var agent: AgentOptions

    private static func divert(_ text: String) throws -> SidecarAgent.Divert {
        guard text.hasPrefix("listen=") else {
            throw FlagError("'\(text)' isn't a way to divert in this version. Write listen=ADDRESS:PORT.")
        }
        let value = String(text.dropFirst("listen=".count))
        if let pieces = try? Flags.pieces(value), pieces.count == 1, !pieces[0].isEmpty {
            return .listenOnAll(host: String(pieces[0]))
        }
        return .listen(try Flags.endpoint(value, zeroAllowed: true))
    }

    func validate() throws {
        if self.peer.isEmpty, self.peersFile == nil {
            throw ValidationError(
                "Nobody could connect. Name a workspace's public key by --peer, or a file of them by --peers-file."
            )
        }
        if self.deadAfter < .seconds(1) { throw ValidationError("--dead-after must be at least 1s.") }
        if self.servicePort.isEmpty { throw ValidationError("No port to serve. Name one by --service-port.") }
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
        AgentSupport.Process.holdEndAndReloadSignals()
        var sockets = ActivatedSockets.inherited()
        let notifier = ServiceNotifier.inherited()
        AgentSupport.Process.forbidCoreDumps()
        let descriptors = AgentSupport.Process.raiseDescriptorLimit()
        let log = self.agent.logger("kl-sidecar")
        if self.listenUdp != nil {
            log.warning("--listen-udp: the UDP carrier isn't in this version; workspaces dial over TCP")
        }

        var configuration = SidecarAgent.Configuration(
            staticKey: try self.agent.staticKey(),
            peers: self.peer,
            tunnelAddress: self.listenTcp,
            servicePorts: self.servicePort,
            divert: self.divert,
            log: log
        )
        if let peersFile = self.peersFile { configuration.peers += try PeersFile(contentsOf: peersFile).keys }
        configuration.presharedKey = try self.agent.presharedKey()
        configuration.tunnel.linger = self.linger
        configuration.tunnel.deadAfter = self.deadAfter
        configuration.tunnel.maxStreamsFromPeer = 1
        configuration.descriptorLimit = descriptors
        configuration.sockets = self.take(&sockets)
        for socket in sockets.sockets {
            log.warning(
                "a socket that was handed over serves no port of this sidecar",
                metadata: ["name": "\(socket.name)"]
            )
        }

        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let program = SidecarProgram(
            configuration,
            metrics: self.metrics,
            peersFile: self.peersFile,
            peers: self.peer,
            notifier: notifier,
            eventLoop: eventLoop
        )
        let bound = try eventLoop.submit { NIOLoopBound(program.build(), eventLoop: eventLoop) }.wait()
        eventLoop.execute { bound.value.start() }

        while AgentSupport.Process.nextSignal() == .reload { eventLoop.execute { bound.value.reload() } }
        eventLoop.execute { bound.value.shutDown() }
        // Asked again: at once.
        _ = AgentSupport.Process.nextEndSignal()
        Ending(name: "kl-sidecar", saying: nil, code: Ending.interrupted).exit()
    }

    /// A socket belongs to the service port for which this sidecar would otherwise listen on the same port itself.
    private func take(_ sockets: inout ActivatedSockets) -> SidecarAgent.Sockets {
        var result = SidecarAgent.Sockets()
        result.tunnel = sockets.take(named: "tunnel")
        for servicePort in self.servicePort {
            let taken = sockets.take(port: self.divert.endpoint(of: servicePort.port).port)
            if !taken.isEmpty { result.services[servicePort.port] = taken }
        }
        return result
    }
}
