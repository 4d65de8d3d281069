public import Environments
public import InterceptModel
import InterceptProtocol

/// Requests of `kl` to the daemon: one JSON object per line, answered by one or more lines.
///
/// If the client closes the connection before the last line, its request is cancelled.
public enum DaemonRequest: Codable, Equatable, Sendable {
    /// Answered by `step` lines, then `done` or `failed`.
    case start(StartRequest)
    /// Answered like `start`.
    case stop(StopRequest)
    /// Answered by `intercepts`.
    case status
    /// Answered by `changed` lines until the connection closes: the intercept's current state, whenever it changes.
    case follow(service: String)
    /// Ends the daemon once its intercepts are stopped. Answered by `done`.
    case shutDown
    /// Leaves its intercepts to the next daemon, and ends. Answered by `done`.
    case handOver
}

public struct StartRequest: Codable, Equatable, Sendable {
    public var environment: EnvironmentReference
    public var service: String
    public var mappings: [Mapping]
    /// `original` or `refuse`.
    public var onUnavailable: String
    /// `original` or `workspace`.
    public var probes: String
    public var drainSeconds: Int
    public var force: Bool
    /// `v1` or `v2`; nil: local servers see this machine as the client.
    public var proxyProtocol: String?
    /// `udp`, `tcp` or `exec`; nil: whichever reaches the sidecar.
    public var carrier: String?
    /// HOST:PORT to dial in place of the address that the environment reports.
    public var endpoint: String?
    /// The image of the sidecars' containers, if the environment makes some; nil: this version's own.
    public var sidecarImage: String?

    public struct Mapping: Codable, Hashable, Sendable {
        public var service: UInt16
        /// Nil: TCP.
        public var transport: Transport?
        public var host: String
        public var port: UInt16

        /// The service's port, as everything below the daemon names it.
        public var servicePort: ServicePort {
            ServicePort(self.service, self.transport ?? .tcp)
        }

        public init(service: UInt16, transport: Transport = .tcp, host: String, port: UInt16) {
            self.service = service
            self.transport = transport == .tcp ? nil : transport
            self.host = host
            self.port = port
        }
    }

    public init(environment: EnvironmentReference, service: String, mappings: [Mapping]) {
        self.environment = environment
        self.service = service
        self.mappings = mappings
        self.onUnavailable = "original"
        self.probes = "original"
        self.drainSeconds = 10
        self.force = false
    }
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
    case failed(Failure)

    /// Progress of a start or a stop.
    public struct Step: Codable, Equatable, Sendable {
        public enum Name: String, Codable, Sendable {
            // Of a start.
            /// The previous intercept's open connections are still being drained.
            case waitsForDrain
            case sidecarRunning
            case tunnelUp
            case portMapped
            case localServerMissing
            // Of a stop.
            case originalAnswers
            /// In place of `originalAnswers`, if there is no original that could answer.
            case nothingAnswers
            case drained
        }

        public var name: Name
        public var seconds: Double
        /// With `portMapped` and `localServerMissing`.
        public var mapping: StartRequest.Mapping?
        /// With `tunnelUp`.
        public var sidecars: [SidecarStatus]
        /// With `drained`: how many connections were open at the stop, and how many of them had to be reset.
        public var connections: UInt64?
        public var reset: UInt64?
        /// With `nothingAnswers`: why, as a clause.
        public var reason: String?

        public init(_ name: Name, seconds: Double) {
            self.name = name
            self.seconds = seconds
            self.sidecars = []
        }
    }

    public struct Failure: Codable, Equatable, Sendable {
        public enum Code: String, Codable, Sendable {
            case failed
            case notUp
            case noSuchService
            case noSuchIntercept
            case busy
        }

        public var code: Code
        public var message: String

        public init(code: Code, message: String) {
            self.code = code
            self.message = message
        }
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

/// One of this workspace's intercepts, as its daemon knows it.
public struct InterceptStatus: Codable, Equatable, Sendable {
    public var environment: EnvironmentReference
    public var service: String
    public var phase: Phase
    /// Why the phase isn't Active, as a clause.
    public var reason: String?
    /// RFC 3339, UTC: when the phase began.
    public var phaseSince: String
    /// RFC 3339, UTC: when the intercept began.
    public var since: String
    public var generation: UInt64
    public var mappings: [StartRequest.Mapping]
    /// Service ports of `mappings` whose local server doesn't listen.
    public var missingLocalServers: [UInt16]
    /// The same for UDP; nil: none.
    public var missingDatagramServers: [UInt16]?
    /// `original` or `refuse`; nil: the daemon is of an earlier version and doesn't say.
    public var onUnavailable: String?
    public var open: UInt64
    public var total: UInt64
    public var passed: UInt64
    public var bytesIn: UInt64
    public var bytesOut: UInt64
    public var sidecars: [SidecarStatus]

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
    /// Whether nothing listens at the mapping's local address.
    public func isMissing(_ mapping: StartRequest.Mapping) -> Bool {
        switch mapping.servicePort.transport {
        case .tcp: self.missingLocalServers.contains(mapping.service)
        case .udp: self.missingDatagramServers?.contains(mapping.service) ?? false
        }
    }

    /// Whether clients of a port whose local server doesn't listen are refused, rather than given to the original.
    public var isRefusing: Bool { self.onUnavailable == OnUnavailable.refuse.rawValue }
}

public struct SidecarStatus: Codable, Equatable, Sendable {
    public var name: String
    public var phase: Phase
    public var reason: String?
    public var publicKey: String
    /// `udp`, `tcp` or `exec`
    public var carrier: String
    /// HOST:PORT, or the command.
    public var address: String
    public var listens: [String]
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
        carrier: String = "tcp",
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
