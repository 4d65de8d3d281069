public import InterceptProtocol

/// Where services run: what the CLI and the daemon know of it, whatever it is made of.
///
/// The methods may wait for files or for another program. Their errors are an `EnvironmentError`, in a sentence for people.
public protocol Environment: Sendable {
    var reference: EnvironmentReference { get }

    /// In the order in which the environment lists them. Throws `.notUp` where nothing runs.
    func services() async throws -> [Service]

    /// Lets a workspace connect to the environment's sidecars. Returns once they accept it, where they run already.
    func join(_ member: Member) async throws

    /// Makes sure that each replica of the service has a sidecar that runs and accepts this public key, and tells where
    /// they are. Returns once they accept it.
    func prepareSidecars(of service: String, accepting member: Member) async throws -> [SidecarLocation]

    /// Where they are now; asked again when one doesn't answer, since its address and key may be new.
    func sidecars(of service: String) async throws -> [SidecarLocation]

    /// Everybody's intercepts.
    func intercepts() async throws -> [InterceptRecord]

    /// Writes that this service is intercepted, if it isn't by someone else. One of several at once wins. A claim of the same
    /// key is replaced.
    func claim(_ record: InterceptRecord, force: Bool) async throws -> ClaimResult

    /// Takes the claim back if it is this key's; otherwise nothing happens.
    func release(service: String, publicKey: String) async throws

    // MARK: Where sidecars are made for an intercept

    /// Whether sidecars are there for an intercept alone, and made by whoever intercepts.
    var makesSidecars: Bool { get }

    /// As above, where sidecars are made.
    func claim(_ record: InterceptRecord, options: SidecarOptions, force: Bool) async throws -> ClaimResult

    /// As above, where sidecars are made; the service is claimed by the member.
    func prepareSidecars(
        of service: String,
        accepting member: Member,
        options: SidecarOptions
    ) async throws
        -> [SidecarLocation]

    /// Makes up for what has ended or come since the service was claimed: a record that went with its sidecar, a sidecar for
    /// each replica. Called now and then, and after each of `changes`.
    func maintain(_ record: InterceptRecord, options: SidecarOptions) async throws -> Maintained

    /// Something of what the environment tells may be another now.
    func changes() async -> AsyncStream<EnvironmentChange>

    /// What was told doesn't hold, as it seems: it is read anew before it is told again.
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
    /// This sidecar's replica is being ended, and in some hundredths of a second nothing in its network may reach a client
    /// any more.
    case ending(service: String, sidecar: String)
}

/// How sidecars are to be, where they are made for an intercept.
public struct SidecarOptions: Codable, Hashable, Sendable {
    /// The container image; nil: the one of this version.
    public var image: String?
    /// Ports that must be divertible, besides those that the environment knows of.
    public var ports: [UInt16]
    /// The same, of UDP; nil: none.
    public var datagramPorts: [UInt16]?

    public init(image: String? = nil, ports: [UInt16] = [], datagramPorts: [UInt16] = []) {
        self.image = image
        self.ports = ports
        self.datagramPorts = datagramPorts.isEmpty ? nil : datagramPorts
    }

    /// All of them.
    var servicePorts: [ControlMessage.Port] {
        self.ports.map { .init(service: $0) }
            + (self.datagramPorts ?? []).map { .init(service: $0, transport: .udp) }
    }
}

public enum Maintained: Equatable, Sendable {
    case sidecars([SidecarLocation])
    /// Somebody else has the service now.
    case heldBy(InterceptRecord)
}

public enum ClaimResult: Equatable, Sendable {
    case claimed
    /// With `force`: whose it was.
    case takenOver(from: InterceptRecord)
    case heldBy(InterceptRecord)
}

/// Which environment, in a form that can be written down.
public struct EnvironmentReference: Codable, Hashable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case local
        case docker
    }

    public var kind: Kind
    public var name: String
    /// `local`: the compose file's absolute path. `docker`: `project:shop@unix:///var/run/docker.sock`.
    public var location: String
    /// Of `docker` alone.
    public var docker: DockerPlace?

    public init(kind: Kind, name: String, location: String) {
        self.kind = kind
        self.name = name
        self.location = location
    }

    /// Where nothing of it runs: so, and what starts it, in a clause.
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
        /// It ended, and is started again after a while.
        case restarting
        /// It ended and stays so, or couldn't be started.
        case stopped
    }

    public struct Port: Codable, Equatable, Hashable, Sendable {
        /// What clients use, and `--port` speaks of.
        public var published: UInt16
        /// Where the service's own process listens.
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
    /// Why it isn't running, in a clause: "exited with code 1", "doesn't listen on 21090 yet".
    public var reason: String?
    public var ports: [Port]
    public var replicas: Int
    /// Why it can't be intercepted, and what to do, in two sentences.
    public var refusal: String?
    /// It may listen on ports that the environment knows nothing of.
    public var mayHaveOtherPorts: Bool?
    /// HOST:PORT on the engine's machine, where clients reach it too.
    public var places: [String]?
    /// Under which number of the engine's machine each of its ports is published.
    public var publications: [Publication]?
    /// Names and ids of its containers, by which a person may mean it too.
    public var containers: [String]?

    public struct Publication: Codable, Equatable, Hashable, Sendable {
        /// On the engine's machine.
        public var host: UInt16
        private var target: UInt16
        private var transport: Transport

        public init(host: UInt16, port: ControlMessage.Port) {
            self.host = host
            self.target = port.service
            self.transport = port.transport
        }

        /// The service's own.
        public var port: ControlMessage.Port { .init(service: self.target, transport: self.transport) }
    }

    public init(name: String, state: State, reason: String? = nil, ports: [Port], replicas: Int = 1) {
        self.name = name
        self.state = state
        self.reason = reason
        self.ports = ports
        self.replicas = replicas
    }

    /// By a whole name, or by an id that is cut off as the engine's client cuts it.
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
    /// HOST:PORT; perhaps no address that can be reached from here.
    public var tcp: String
    /// The same for datagrams; nil: it takes none.
    public var udp: String?
    /// A program and its arguments that is a way to the sidecar by its standard input and output, for where `tcp` can't be
    /// reached.
    public var command: [String]?
    /// Where clients reach the service: `127.0.0.1:8080`.
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

/// Somebody who may connect to the environment's sidecars.
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

/// Who intercepts a service.
public struct InterceptRecord: Codable, Equatable, Sendable {
    public struct Port: Codable, Equatable, Hashable, Sendable {
        /// The service's.
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
    /// True: while the workspace can't answer, clients are refused. Nil: the original answers them, or it isn't known.
    public var refuses: Bool?
    /// As the environment sees it: true while a sidecar gives connections to the holder's workspace; nil where it can't tell.
    public var isDiverting: Bool?
    /// As the environment's sidecars count them.
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
    /// What is odd in the file that is wrong: perhaps the reason, such as a key with a letter too few.
    public var warnings: [String] = []

    public init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}
