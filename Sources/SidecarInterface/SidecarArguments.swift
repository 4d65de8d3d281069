public import CommandText
public import HostSupport
public import InterceptModel

/// The command line of `kl-sidecar run`, as environments write it. That the program reads it so is tested with its own parser.
public struct SidecarArguments: Equatable, Sendable {
    public enum Loopback: String, CaseIterable, Sendable {
        case original
        case workspace
    }

    public var listenTCP: Endpoint
    public var listenUDP: Endpoint?
    public var divert: DivertFlag
    public var servicePorts: [ServedPort]
    public var peers: [Admission] = []
    public var peersFile: String?
    /// A path, or `pid:N`. Nil: the sidecar's own network.
    public var netns: String?
    /// Nil: as is usual where it runs.
    public var loopback: Loopback?
    /// IP addresses, and `gateway`.
    public var nodeAddresses: [String] = []
    public var allowsTakeover = false
    public var allowsRefuse = false
    /// Nil: the program's default.
    public var lingerMinutes: Int?
    public var isEphemeral = false
    /// With `isEphemeral`: how long it stays without a use.
    public var idleMinutes: Int?
    /// How long the program that ends it waits before it kills.
    public var graceSeconds: Int?
    /// What its buffers may take. Nil: the program's default.
    public var memoryMiB: Int?
    public var announcesIntercepts = false
    public var logFormat: LineLogHandler.Format?

    public init(listenTCP: Endpoint, listenUDP: Endpoint? = nil, divert: DivertFlag, servicePorts: [ServedPort]) {
        self.listenTCP = listenTCP
        self.listenUDP = listenUDP
        self.divert = divert
        self.servicePorts = servicePorts
    }

    /// From the subcommand on.
    public var words: [String] {
        var words = ["run", "--listen-tcp", "\(self.listenTCP)"]
        func add(_ flag: String, _ value: String?) { if let value { words += [flag, value] } }
        func add(_ flag: String, isSet: Bool) { if isSet { words.append(flag) } }
        add("--listen-udp", self.listenUDP?.description)
        add("--divert", self.divert.description)
        add("--netns", self.netns)
        add("--loopback", self.loopback?.rawValue)
        for peer in self.peers { add("--peer", "\(peer)") }
        add("--peers-file", self.peersFile)
        for served in self.servicePorts { add("--service-port", Self.text(of: served)) }
        for address in self.nodeAddresses { add("--node-address", address) }
        add("--allow-takeover", isSet: self.allowsTakeover)
        add("--allow-refuse", isSet: self.allowsRefuse)
        add("--linger", self.lingerMinutes.map { "\($0)m" })
        add("--ephemeral", isSet: self.isEphemeral)
        add("--idle", self.idleMinutes.map { "\($0)m" })
        add("--grace", self.graceSeconds.map { "\($0)s" })
        add("--memory", self.memoryMiB.map { "\($0)m" })
        add("--announce-intercepts", isSet: self.announcesIntercepts)
        add("--log-format", self.logFormat?.rawValue)
        return words
    }

    /// The port alone, where the original listens on the same one of this host.
    private static func text(of served: ServedPort) -> String {
        let isUsual = served.upstream == Endpoint(host: "127.0.0.1", port: served.port.number)
        return isUsual ? "\(served.port)" : "\(served)"
    }
}

extension ServedPort {
    /// Where the original listens on this host.
    public init(_ port: ServicePort, onThisHostAt target: UInt16) {
        self.init(port, upstream: Endpoint(host: "127.0.0.1", port: target))
    }
}

/// `--divert`: how a sidecar takes connections.
public enum DivertFlag: Hashable, Sendable, CustomStringConvertible {
    /// It listens there, for one service port.
    case listen(Endpoint)
    /// It listens on each service port of this address.
    case listenOnAll(host: String)
    /// By the kernel.
    case redirect

    public init(_ text: String) throws(FlagError) {
        if text == "redirect" {
            self = .redirect
            return
        }
        guard text.hasPrefix("listen=") else {
            throw FlagError("'\(text)' isn't a way to divert. Write redirect, listen=ADDRESS:PORT or listen=ADDRESS.")
        }
        let value = String(text.dropFirst("listen=".count))
        if let pieces = try? Flags.pieces(value), pieces.count == 1, !pieces[0].isEmpty {
            self = .listenOnAll(host: String(pieces[0]))
        } else {
            self = .listen(try Flags.endpoint(value, zeroAllowed: true))
        }
    }

    public var description: String {
        switch self {
        case .listen(let endpoint): "listen=\(endpoint)"
        case .listenOnAll(let host): host.contains(":") ? "listen=[\(host)]" : "listen=\(host)"
        case .redirect: "redirect"
        }
    }
}
