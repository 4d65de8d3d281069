public import InterceptModel

/// The place where services run, as the CLI and the daemon see it, independent of its kind.
///
/// The methods may wait for files or for another program. They throw an `EnvironmentError`, whose text is for people.
public protocol Environment: Sendable {
    var reference: EnvironmentReference { get }

    /// In the environment's own order. Throws `.notUp` if nothing runs.
    func services() async throws -> [Service]

    /// Lets a workspace connect to the environment's sidecars. Returns once those that run accept its key.
    func join(_ member: Member) async throws

    /// Makes sure that each replica of the service has a sidecar that runs and accepts this public key, and returns their
    /// locations. Waits until they accept it.
    func prepareSidecars(of service: String, accepting member: Member) async throws -> [SidecarLocation]

    /// The sidecars' current locations. Asked again when a sidecar doesn't answer, since its address and key may have
    /// changed.
    func sidecars(of service: String) async throws -> [SidecarLocation]

    /// The intercepts of all workspaces.
    func intercepts() async throws -> [InterceptRecord]

    /// Records that this service is intercepted, unless another key has claimed it and `force` is false. Of several claims
    /// at once one wins. A claim of the same key is replaced, as far as the record can be changed: a container's labels can't.
    func claim(_ record: InterceptRecord, force: Bool) async throws -> ClaimResult

    /// Removes the claim if it is this key's; otherwise does nothing.
    func release(service: String, publicKey: String) async throws

    // MARK: Environments that make sidecars for an intercept

    /// Whether sidecars exist for the time of an intercept only, and are made by the intercepting workspace.
    var makesSidecars: Bool { get }

    /// As above, with options for the sidecars that are made.
    func claim(_ record: InterceptRecord, options: SidecarOptions, force: Bool) async throws -> ClaimResult

    /// As above, with options for the sidecars that are made; the member must hold the claim.
    func prepareSidecars(
        of service: String,
        accepting member: Member,
        options: SidecarOptions
    ) async throws
        -> [SidecarLocation]

    /// Restores what has been lost or has changed since the service was claimed: the record, if it went with its sidecar,
    /// and a sidecar for each replica. Called now and then, and after each of `changes`.
    func maintain(_ record: InterceptRecord, options: SidecarOptions) async throws -> Maintained

    /// Yields an element whenever the environment's answers may have changed.
    func changes() async -> AsyncStream<EnvironmentChange>

    /// The environment's last answer seems to be outdated: read anew before the next one.
    func doubt() async
}

extension Environment {
    public var makesSidecars: Bool { false }

    public func claim(_ record: InterceptRecord, options: SidecarOptions, force: Bool) async throws -> ClaimResult {
        try await self.claim(record, force: force)
    }

    public func prepareSidecars(
        of service: String,
        accepting member: Member,
        options: SidecarOptions
    ) async throws -> [SidecarLocation] {
        try await self.prepareSidecars(of: service, accepting: member)
    }

    public func maintain(_ record: InterceptRecord, options: SidecarOptions) async throws -> Maintained {
        .sidecars(try await self.sidecars(of: record.service))
    }

    public func changes() async -> AsyncStream<EnvironmentChange> { AsyncStream { $0.finish() } }

    public func doubt() async {}
}

public enum EnvironmentChange: Equatable, Sendable {
    case any
    /// This sidecar's replica is being ended. Within some hundredths of a second nothing in its network will be able to
    /// reach a client.
    case ending(service: String, sidecar: String)
}

/// Options for sidecars that are made for an intercept.
public struct SidecarOptions: Codable, Hashable, Sendable {
    /// The container image; nil: this version's own.
    public var image: String?
    /// Ports that must be divertible, in addition to those that the environment knows.
    public var ports: [UInt16]
    /// The same for UDP; nil: none.
    public var datagramPorts: [UInt16]?

    public init(image: String? = nil, ports: [UInt16] = [], datagramPorts: [UInt16] = []) {
        self.image = image
        self.ports = ports
        self.datagramPorts = datagramPorts.isEmpty ? nil : datagramPorts
    }

    /// All ports of both transports.
    package var servicePorts: [ServicePort] {
        self.ports.map { .init($0) }
            + (self.datagramPorts ?? []).map { .init($0, .udp) }
    }
}

public enum Maintained: Equatable, Sendable {
    case sidecars([SidecarLocation])
    /// Another workspace has the service now.
    case heldBy(InterceptRecord)
}

public enum ClaimResult: Equatable, Sendable {
    case claimed
    /// With `force`: the record of the previous holder.
    case takenOver(from: InterceptRecord)
    case heldBy(InterceptRecord)
}

/// Identifies an environment, in a form that can be stored.
public struct EnvironmentReference: Codable, Hashable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case local
        case docker
    }

    public var kind: Kind
    public var name: String
    /// `local`: the compose file's absolute path. `docker`: `project:shop@unix:///var/run/docker.sock`.
    public var location: String
    /// Only set for `docker`.
    public var docker: DockerPlace?

    public init(kind: Kind, name: String, location: String) {
        self.kind = kind
        self.name = name
        self.location = location
    }

    /// Says that nothing of it runs, and what starts it, as a clause.
    public var notUpReason: String {
        switch self.kind {
        case .local: "the environment isn't up; kl env up starts it"
        case .docker: "the environment has no containers; docker compose up starts them"
        }
    }
}

/// A service as people see it.
public struct Service: Codable, Equatable, Sendable {
    public enum State: String, Codable, Sendable {
        case starting
        case running
        /// It ended, and will be started again.
        case restarting
        /// It ended and isn't started again, or couldn't be started.
        case stopped
    }

    public struct Port: Codable, Equatable, Hashable, Sendable {
        /// The port that clients and `--port` use.
        public var published: UInt16
        /// The port on which the service's own process listens.
        public var target: UInt16
        public var name: String?
        /// Nil: TCP.
        public var transport: Transport?

        public init(published: UInt16, target: UInt16, name: String? = nil, transport: Transport = .tcp) {
            self.published = published
            self.target = target
            self.name = name
            self.transport = transport == .tcp ? nil : transport
        }

        public var isUDP: Bool { self.transport == .udp }
    }

    public var name: String
    public var state: State
    /// Why it isn't running, as a clause: "exited with code 1", "doesn't listen on 21090 yet".
    public var reason: String?
    public var ports: [Port]
    public var replicas: Int
    /// Why it can't be intercepted, and what to do, in two sentences.
    public var refusal: String?
    /// It may listen on ports that the environment doesn't know.
    public var mayHaveOtherPorts: Bool?
    /// HOST:PORT on the engine's machine, at which clients can reach it, too.
    public var places: [String]?
    /// The port numbers of the engine's machine under which its ports are published.
    public var publications: [Publication]?
    /// Names and ids of its containers, which a user may type in place of its name.
    public var containers: [String]?

    public struct Publication: Codable, Equatable, Hashable, Sendable {
        /// The port on the engine's machine.
        public var host: UInt16
        private var target: UInt16
        private var transport: Transport

        public init(host: UInt16, port: ServicePort) {
            self.host = host
            self.target = port.number
            self.transport = port.transport
        }

        /// The service's own port.
        public var port: ServicePort { .init(self.target, self.transport) }
    }

    public init(name: String, state: State, reason: String? = nil, ports: [Port], replicas: Int = 1) {
        self.name = name
        self.state = state
        self.reason = reason
        self.ports = ports
        self.replicas = replicas
    }

    /// By a container's name, its full id, or its id shortened to at least 12 characters, as the engine's client shortens
    /// it.
    public func hasContainer(_ name: String) -> Bool {
        (self.containers ?? []).contains {
            $0 == name || ($0.utf8.count == 64 && name.utf8.count >= 12 && $0.hasPrefix(name))
        }
    }
}

/// One replica's sidecar.
public struct SidecarLocation: Codable, Hashable, Sendable {
    /// `api-server-1`
    public var name: String
    /// Base64.
    public var publicKey: String
    /// HOST:PORT of the tunnel; it may not be reachable from here.
    public var tcp: String
    /// The same for datagrams; nil: it takes none.
    public var udp: String?
    /// A program and its arguments that relays standard input and output to the sidecar, for use if `tcp` can't be reached.
    public var command: [String]?
    /// The addresses at which clients reach the service: `127.0.0.1:8080`.
    public var listens: [String]

    public init(
        name: String,
        publicKey: String,
        tcp: String,
        udp: String? = nil,
        command: [String]? = nil,
        listens: [String]
    ) {
        self.name = name
        self.publicKey = publicKey
        self.tcp = tcp
        self.udp = udp
        self.command = command
        self.listens = listens
    }
}

/// A workspace that may connect to the environment's sidecars.
public struct Member: Codable, Hashable, Sendable {
    /// `ada@thinkpad`
    public var label: String
    /// Base64.
    public var publicKey: String

    public init(label: String, publicKey: String) {
        self.label = label
        self.publicKey = publicKey
    }
}

/// Says which workspace intercepts a service. Others see no more of an intercept than this; its holder's own daemon knows more.
public struct InterceptRecord: Codable, Equatable, Sendable {
    public struct Port: Codable, Equatable, Hashable, Sendable {
        /// The service's port.
        public var service: UInt16
        /// Nil: TCP.
        public var transport: Transport?
        /// HOST:PORT on the workspace's side.
        public var target: String

        public init(service: UInt16, transport: Transport? = nil, target: String) {
            self.service = service
            self.transport = transport == .tcp ? nil : transport
            self.target = target
        }
    }

    public var service: String
    public var holder: Member
    /// RFC 3339, UTC.
    public var since: String
    public var ports: [Port]
    /// True: clients are refused while the workspace can't answer. Nil: the original answers them, or it isn't known.
    public var refuses: Bool?
    /// Whether a sidecar gives connections to the holder's workspace, as the environment sees it; nil if it can't tell.
    public var isDiverting: Bool?
    /// The environment's sidecars' own counts.
    public var connections: Connections?

    public struct Connections: Codable, Equatable, Sendable {
        public var open: UInt64
        public var total: UInt64
        public var passed: UInt64

        public init(open: UInt64, total: UInt64, passed: UInt64) {
            self.open = open
            self.total = total
            self.passed = passed
        }
    }

    public init(service: String, holder: Member, since: String, ports: [Port]) {
        self.service = service
        self.holder = holder
        self.since = since
        self.ports = ports
    }
}

/// What is wrong, and what to do, in two sentences; `code` decides the program's exit code.
public struct EnvironmentError: Error, Equatable, CustomStringConvertible, Sendable {
    public enum Code: String, Codable, Sendable {
        case failed
        /// The file, or something in it, can't be used.
        case file
        case notUp
        case noSuchService
        case busy
    }

    public var code: Code
    public var description: String
    /// Warnings about the same file, one of which may be the cause: a key that lacks a letter, for example.
    public var warnings: [String] = []

    public init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}
