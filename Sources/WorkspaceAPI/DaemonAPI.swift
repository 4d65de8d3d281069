public import Environments
public import InterceptModel

/// Requests of `kl` to the daemon: one JSON object per line, answered by one or more lines.
///
/// If the client closes the connection before the last line, its request is cancelled.
public enum DaemonRequest: Codable, Equatable, Sendable {
    /// Answered by `step` lines, then `done` or `failed`.
    ///
    /// The variables are those of the user's shell, for programs by which the daemon reaches the environment: they may hold
    /// secrets, so they aren't a part of what is stored, and no log has them. Nil where none are needed.
    case start(StartRequest, variables: [String: String]? = nil)
    /// Answered like `start`, and with variables for the same reason.
    case stop(StopRequest, variables: [String: String]? = nil)
    /// Answered by `intercepts`.
    case status
    /// Answered by `changed` lines until the connection closes: the intercept's current state, whenever it changes.
    case follow(service: String)
    /// Ends the daemon once its intercepts are stopped. Answered by `done`.
    case shutDown
    /// Leaves its intercepts to the next daemon, and ends. Answered by `done`.
    case handOver
}

public struct StopRequest: Codable, Equatable, Sendable {
    public var environment: EnvironmentReference
    public var service: String
    /// Nil: as `start` had it.
    public var drainSeconds: Int?

    public init(environment: EnvironmentReference, service: String, drainSeconds: Int? = nil) {
        self.environment = environment
        self.service = service
        self.drainSeconds = drainSeconds
    }
}

/// A line from the daemon. The first one on every connection is `hello`.
public enum DaemonReply: Codable, Equatable, Sendable {
    case hello(version: String, pid: Int32)
    case step(Step)
    case intercepts([InterceptStatus])
    case changed(InterceptStatus)
    /// After `start` and `stop`: the intercept's state, or its last one.
    case done(InterceptStatus?)
    case failed(Problem)
}

/// `{"code": …, "message": …}`, the message in all its sentences. A daemon tells codes that depend on what was asked of it; the
/// others are `failed`.
extension Problem: Codable {
    private enum CodingKeys: CodingKey {
        case code, message
    }

    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            try values.decode(Code.self, forKey: .code),
            try values.decode(String.self, forKey: .message)
        )
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        let isTold = [.notUp, .noSuchService, .noSuchIntercept, .busy].contains(self.code)
        try values.encode(isTold ? self.code : .failed, forKey: .code)
        try values.encode(self.description, forKey: .message)
    }
}

public enum Phase: String, Codable, Sendable {
    case pending = "Pending"
    case active = "Active"
    /// The tunnel is down.
    case degraded = "Degraded"
    case stopping = "Stopping"
    case failed = "Failed"
}

/// One of this workspace's intercepts or mirrors, as its daemon knows it.
public struct InterceptStatus: Codable, Equatable, Sendable {
    public var environment: EnvironmentReference
    public var service: String
    /// Nil: an intercept.
    private var otherKind: HoldingKind?
    public var phase: Phase
    /// Why the phase isn't Active, as a clause.
    public var reason: String?
    /// RFC 3339, UTC: when the phase began.
    public var phaseSince: String
    /// RFC 3339, UTC: when the intercept began.
    public var since: String
    public var generation: UInt64
    public var mappings: [PortMapping]
    private var missingLocalServers: [UInt16]
    /// The same for UDP; nil: none.
    private var missingDatagramServers: [UInt16]?
    /// Nil: the daemon is of an earlier version and doesn't say.
    public var onUnavailable: OnUnavailable?
    public var open: UInt64
    public var total: UInt64
    public var passed: UInt64
    /// Of a mirror: copies that were reset, or not begun, because this workspace couldn't keep up. Nil: it is an intercept.
    public var behind: UInt64?
    public var bytesIn: UInt64
    public var bytesOut: UInt64
    public var sidecars: [SidecarStatus]

    private enum CodingKeys: String, CodingKey {
        case environment, service, phase, reason, phaseSince, since, generation, mappings
        case missingLocalServers, missingDatagramServers, onUnavailable
        case open, total, passed, behind, bytesIn, bytesOut, sidecars
        case otherKind = "kind"
    }

    public init(environment: EnvironmentReference, service: String, phase: Phase, since: String) {
        self.environment = environment
        self.service = service
        self.phase = phase
        self.phaseSince = since
        self.since = since
        self.generation = 1
        self.mappings = []
        self.missingLocalServers = []
        self.open = 0
        self.total = 0
        self.passed = 0
        self.bytesIn = 0
        self.bytesOut = 0
        self.sidecars = []
    }
}

extension InterceptStatus {
    public var kind: HoldingKind {
        get { self.otherKind ?? .intercept }
        set { self.otherKind = newValue == .intercept ? nil : newValue }
    }

    /// Service ports of `mappings` whose local server doesn't listen.
    public var missingServers: [ServicePort] {
        get {
            self.missingLocalServers.map { ServicePort($0) }
                + (self.missingDatagramServers ?? []).map { ServicePort($0, .udp) }
        }
        set {
            self.missingLocalServers = newValue.filter { $0.transport == .tcp }.map(\.number)
            let datagrams = newValue.filter { $0.transport == .udp }.map(\.number)
            self.missingDatagramServers = datagrams.isEmpty ? nil : datagrams
        }
    }

    /// Whether nothing listens at the mapping's local address.
    public func isMissing(_ mapping: PortMapping) -> Bool { self.missingServers.contains(mapping.port) }
}

public struct SidecarStatus: Codable, Equatable, Sendable {
    /// By which way its tunnel goes.
    public enum Carrier: String, Codable, Sendable {
        case udp
        case tcp
        /// A command's standard input and output.
        case exec
    }

    public var name: String
    public var phase: Phase
    public var reason: String?
    public var publicKey: String
    public var carrier: Carrier
    /// HOST:PORT, or the command.
    public var address: String
    public var listens: [String]
    /// Which address the original sees where a client is passed on to it. Nil: sidecar or daemon are of a version that doesn't tell.
    public var originalSees: SeenAddress?
    public var rttMs: Double?
    public var handshakeAgeSeconds: Double?
    public var messagesSent: UInt64
    public var messagesLost: UInt64
    /// The largest message that the path carries, in bytes of UDP payload; absent on `tcp` and `exec`.
    public var mtu: Int?
    /// How often the tunnel has moved to another carrier.
    public var carrierChanges: UInt64?

    public init(
        name: String,
        phase: Phase,
        publicKey: String,
        carrier: Carrier = .tcp,
        address: String,
        listens: [String]
    ) {
        self.name = name
        self.phase = phase
        self.publicKey = publicKey
        self.carrier = carrier
        self.address = address
        self.listens = listens
        self.messagesSent = 0
        self.messagesLost = 0
    }
}
