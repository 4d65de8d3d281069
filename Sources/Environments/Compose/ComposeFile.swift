public import InterceptProtocol

/// What a compose file says of a local environment: the part of the format that has a meaning for processes of this machine.
public struct ComposeFile: Equatable, Sendable {
    public var name: String
    /// Absolute.
    public var path: String
    /// Absolute: of the files that were laid over it.
    public var overrides: [String]
    /// In the file's order.
    public var services: [ComposeService]
    /// What is in the file and does nothing here, with line and column.
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
    /// What is run, without a shell; never empty.
    public var command: [String]
    /// Absolute.
    public var workingDirectory: String
    /// What the file says, to lay over the caller's.
    public var environment: [String: String]
    public var ports: [ComposePort]
    /// Services that listen before this one is started.
    public var dependsOn: [String]
    public var stopGraceSeconds: Double
    public var restart: RestartPolicy
    public var diversion: Diversion
    /// Of its name in the file.
    public var line: Int

    /// `always`, where compose itself has `no`: the service of an environment that people work in is meant to be there, and
    /// the process that a developer kills to see what happens comes back.
    public enum RestartPolicy: String, Codable, Sendable {
        case no
        case always
        case onFailure = "on-failure"
        /// The same as `always`: a service is stopped with its environment only.
        case unlessStopped = "unless-stopped"
    }

    /// How the sidecar takes the service's clients.
    public enum Diversion: Equatable, Sendable {
        /// It has the published port, and the service another.
        case listen
        /// The kernel takes them from the service's own port, in this network namespace (a path) or the machine's own.
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
    /// What clients use: the sidecar's.
    public var published: UInt16
    /// Where the service's own process listens.
    public var target: UInt16
    /// An IP address. 127.0.0.1 where the file names none, though compose has all of them there: this machine is a laptop,
    /// often in a café's network, and what is on it is meant for its owner.
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
