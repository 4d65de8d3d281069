import ArgumentParser
import Carriers
import CommandText
import HostSupport
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import NIOPosix
import Noise
import ProgramSupport
import Tunnel
import WorkspaceAgent

struct RunWorkspace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run the workspace agent until it is told to end.",
        discussion: """
            Prints one JSON line on standard output when it is ready: when the sidecar has said that the service's new \
            connections come here. On SIGTERM or SIGINT it gives the service back, lets open connections finish, and ends.
            """
    )

    @Option(
        help: ArgumentHelp(
            "Whom to dial: PUBLIC_KEY@tcp:HOST:PORT or PUBLIC_KEY@udp:HOST:PORT, as the sidecar's ready line has them, "
                + "or PUBLIC_KEY@exec:'COMMAND …', a command whose standard input and output lead there, as those of "
                + "kl-sidecar dial do; repeated for other ways to the same sidecar, the preferred one first. udp: is "
                + "tried beside all others, and preferred where datagrams get through.",
            valueName: "address"
        ),
        transform: { try Sidecar($0) }
    )
    var sidecar: [Sidecar]

    /// The address, with its key parsed.
    struct Sidecar {
        let key: PublicKey
        let carrier: SidecarAddress.Carrier

        init(_ text: String) throws {
            let address = try SidecarAddress(text)
            self.key = try PublicKey.flag(address.publicKey)
            self.carrier = address.carrier
        }
    }

    @Flag(help: "Take the service over from the workspace that intercepts it.")
    var takeover = false

    @Flag(
        help: """
            Take no connection: get a copy of what clients send, and throw away what the local servers answer.
            """
    )
    var mirror = false

    @Option(
        help: ArgumentHelp(
            "Which local port answers for a service's port: 8080:3000, 8080 for the same one, 8080:HOST:3000; with "
                + "/udp after it for UDP, 53:5353/udp; may be repeated.",
            valueName: "service:local"
        ),
        transform: { try PortMapping($0) }
    )
    var map: [PortMapping]

    @Option(help: "What clients get when the local server can't be reached: the original service, or a reset (refuse).")
    var onUnavailable: OnUnavailable = .original

    @Option(
        help: """
            Who gets the health probes of the service's node, where the sidecar was told its --node-address: original \
            or workspace.
            """
    )
    var probes: Probes = .original

    @Option(
        help: "Tell the local servers each client's address by a PROXY protocol header before its bytes: v1 or v2."
    )
    var proxyProtocol: ProxyProtocol?

    @Option(
        help: ArgumentHelp(
            "How long open connections may take when the intercept ends; at most 10m.",
            valueName: "time"
        ),
        transform: TimeAmount.drainFlag
    )
    var drain: TimeAmount?

    @Option(
        help: ArgumentHelp("A sidecar that has not answered for so long is gone; at least 1s.", valueName: "time"),
        transform: TimeAmount.flag
    )
    var deadAfter: TimeAmount = .seconds(6)

    @OptionGroup var agent: AgentOptions

    func validate() throws {
        if self.deadAfter < .seconds(1) { throw ValidationError("--dead-after must be at least 1s.") }
        if self.sidecar.isEmpty { throw ValidationError("No sidecar to dial. Name one by --sidecar.") }
        if Set(self.sidecar.map(\.key)).count > 1 {
            throw ValidationError("One sidecar is dialled. All --sidecar must have the same public key.")
        }
        if self.map.isEmpty { throw ValidationError("No port is mapped. Name one by --map, such as --map 8080:3000.") }
        if self.mirror, self.takeover || self.onUnavailable == .refuse {
            let flag = self.takeover ? "--takeover" : "--on-unavailable refuse"
            throw ValidationError("\(flag) and --mirror exclude each other: a mirror takes nobody's clients.")
        }
        if self.mirror, self.drain != nil {
            throw ValidationError("--drain is for connections that you answer, and a mirror answers none.")
        }
        do throws(FlagError) {
            try Flags.checkDistinct(self.map)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        HostSupport.Process.holdEndSignals()
        HostSupport.Process.forbidCoreDumps()
        let descriptors = HostSupport.Process.raiseDescriptorLimit()
        HostSupport.Process.keepFreedMemory()
        let log = self.agent.logger("kl-workspace")

        let addresses = try self.addresses(log)
        guard let sidecarKey = self.sidecar.first?.key else { throw ValidationError("No sidecar to dial.") }
        let staticKey = try self.agent.staticKey()
        if self.agent.privateKeyFile == nil {
            // The new key is logged, so that it can still be added to the sidecar's --peers-file.
            log.info("made a key for this run", metadata: ["public_key": "\(staticKey.publicKey)"])
        }
        var tunnel = Initiator.Configuration(
            staticKey: staticKey,
            responder: sidecarKey,
            presharedKey: try self.agent.presharedKey()
        )
        tunnel.tunnel.deadAfter = self.deadAfter
        var configuration = WorkspaceAgent.Configuration(
            tunnel: tunnel,
            sidecar: addresses,
            targets: try LocalTargets(self.map),
            label: WorkspaceLabel.own,
            log: log
        )
        configuration.timestamps = self.agent.privateKeyFile.map { "\($0).timestamps" }
        configuration.descriptorLimit = descriptors
        configuration.onUnavailable = self.onUnavailable
        configuration.probes = self.probes
        configuration.proxyProtocol = self.proxyProtocol
        configuration.takesOver = self.takeover
        configuration.kind = self.mirror ? .mirror : .intercept
        // Rounded up, as the wire has whole seconds: the drain time is never shorter than asked for.
        configuration.drainSeconds = Int(((self.drain ?? .seconds(10)).nanoseconds + 999_999_999) / 1_000_000_000)

        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let built = configuration
        let agent = try eventLoop.submit {
            NIOLoopBound(WorkspaceAgent(built, eventLoop: eventLoop), eventLoop: eventLoop)
        }.wait()
        let publicKey = staticKey.publicKey
        eventLoop.execute {
            agent.value.start { [agent = agent.value] in Self.handle($0, publicKey: publicKey, of: agent) }
        }

        _ = HostSupport.Process.nextEndSignal()
        eventLoop.execute { agent.value.shutDown() }
        // A second signal ends the program at once.
        _ = HostSupport.Process.nextEndSignal()
        Ending(name: "kl-workspace", saying: nil, code: Ending.interrupted).exit()
    }

    private func addresses(_ log: Logger) throws -> [TunnelClient.Address] {
        try self.sidecar.map { sidecar in
            switch sidecar.carrier {
            case .tcp(let tcp): return .tcp(host: tcp.host, port: Int(tcp.port))
            case .udp(let udp): return .udp(host: udp.host, port: Int(udp.port))
            case .exec(let words):
                do throws(HostError) {
                    try FilterProcess.program(words)
                } catch {
                    throw FlagError("the command to dial by can't be run: \(error). Check --sidecar and PATH.")
                }
                return .command(words)
            }
        }
    }

    private static func handle(_ outcome: WorkspaceAgent.Outcome, publicKey: PublicKey, of agent: WorkspaceAgent) {
        switch outcome {
        case .ready(let roundTripTime):
            var fields: [(String, JSONLine.Value)] = [
                ("ready", .bool(true)), ("publicKey", .string(publicKey.base64)),
                ("carrier", .string(agent.snapshot.address?.carrier ?? "tcp")),
            ]
            if let roundTripTime {
                let microseconds = Double(roundTripTime.nanoseconds / 1_000)
                fields.append(("rttMs", .number(max(1, microseconds) / 1_000)))
            }
            Console.write(JSONLine.object(fields) + "\n", to: 1)
        case .failed(let failure):
            Ending(name: "kl-workspace", saying: "\(failure)", code: failure.isBusy ? Ending.busy : Ending.failed)
                .exit()
        case .stopped, .ended: Ending(name: "kl-workspace", saying: nil, code: Ending.done).exit()
        }
    }
}
