public import InterceptModel

/// What a compose file says about a local environment: the part of the format that makes sense for processes of this
/// machine.
public struct ComposeFile: Equatable, Sendable {
    public var name: String
    /// Absolute.
    public var path: String
    /// The absolute paths of the files that were laid over it.
    public var overrides: [String]
    /// In the file's order.
    public var services: [ComposeService]
    /// Parts of the file that have no effect here, with line and column.
    public var warnings: [String]

    public init(
        name: String,
        path: String,
        overrides: [String] = [],
        services: [ComposeService],
        warnings: [String]
    ) {
        self.name = name
        self.path = path
        self.overrides = overrides
        self.services = services
        self.warnings = warnings
    }
}

public struct ComposeService: Equatable, Sendable {
    public var name: String
    /// The program and its arguments, run without a shell; never empty.
    public var command: [String]
    /// Absolute.
    public var workingDirectory: String
    /// Variables from the file; they override the caller's.
    public var environment: [String: String]
    public var ports: [ComposePort]
    /// Services that must be listening before this one is started.
    public var dependsOn: [String]
    public var stopGraceSeconds: Double
    public var restart: RestartPolicy
    public var diversion: Diversion
    /// The line of its name in the file.
    public var line: Int

    /// The default is `always`, where compose has `no`: a service of an environment that people work in should stay
    /// available, and a process that a developer kills to see what happens comes back.
    public enum RestartPolicy: String, Codable, Sendable {
        case no
        case always
        case onFailure = "on-failure"
        /// The same as `always`, since a service is stopped only together with its environment.
        case unlessStopped = "unless-stopped"
    }

    /// How the sidecar takes over the service's clients.
    public enum Diversion: Equatable, Sendable {
        /// The sidecar listens on the published port, and the service on another one.
        case listen
        /// The kernel redirects clients from the service's own port to the sidecar, in this network namespace (a path) or
        /// the machine's own.
        case redirect(netns: String?)
    }

    public init(name: String, command: [String], workingDirectory: String, line: Int = 1) {
        self.name = name
        self.command = command
        self.workingDirectory = workingDirectory
        self.environment = [:]
        self.ports = []
        self.dependsOn = []
        self.stopGraceSeconds = 10
        self.restart = .always
        self.diversion = .listen
        self.line = line
    }
}

public struct ComposePort: Equatable, Hashable, Sendable {
    /// The port that clients use; in `listen` mode the sidecar listens there.
    public var published: UInt16
    /// Where the service's own process listens.
    public var target: UInt16
    /// An IP address. If the file names none it is 127.0.0.1, where compose would listen on all addresses: this machine is
    /// a laptop, often in a public network, and its services are meant for its owner.
    public var hostAddress: String
    public var name: String?
    public var transport: Transport

    public init(
        published: UInt16,
        target: UInt16,
        hostAddress: String = "127.0.0.1",
        name: String? = nil,
        transport: Transport = .tcp
    ) {
        self.published = published
        self.target = target
        self.hostAddress = hostAddress
        self.name = name
        self.transport = transport
    }
}
