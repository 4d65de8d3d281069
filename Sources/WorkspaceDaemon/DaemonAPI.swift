public import Environments
public import InterceptProtocol

/// What `kl` asks of the daemon: one JSON object on a line of its own, answered by one or more lines.
///
/// A connection that is closed before its last line came cancels what it asked for.
public enum DaemonRequest: Codable, Equatable, Sendable {
    /// Answered by `steps` and then `done` or `failed`.
    case start(StartRequest)
    /// Answered as `start` is.
    case stop(StopRequest)
    /// Answered by `intercepts`.
    case status
    /// Answered by `changed` lines until the connection closes: an intercept as it is now, whenever it changes.
    case follow(service: String)
    /// Ends the daemon once its intercepts are stopped. Answered by `done`.
    case shutDown
    /// Leaves its intercepts to the next daemon and ends. Answered by `done`.
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
    /// `tcp` or `exec`; nil: whichever leads to the sidecar.
    public var carrier: String?
    /// HOST:PORT to dial in place of the address that the environment tells.
    public var endpoint: String?
    /// Of the sidecar's containers, where it has some; nil: the one of this version.
    public var sidecarImage: String?

    public struct Mapping: Codable, Hashable, Sendable {
        public var service: UInt16
        /// Nil: TCP.
        public var transport: Transport?
        public var host: String
        public var port: UInt16

        /// The service's port, as everything below the daemon names it.
        public var servicePort: ControlMessage.Port {
            ControlMessage.Port(service: self.service, transport: self.transport ?? .tcp)
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

/// A line of the daemon's. The first on every connection is `hello`.
public enum DaemonReply: Codable, Equatable, Sendable {
    case hello(version: String, pid: Int32)
    case step(Step)
    case intercepts([InterceptStatus])
    case changed(InterceptStatus)
    /// `start` and `stop` tell how the intercept is, or was at its end.
    case done(InterceptStatus?)
    case failed(Failure)

    /// Something that was waited for, and has come.
    public struct Step: Codable, Equatable, Sendable {
        public enum Name: String, Codable, Sendable {
            // start
            /// Not done yet: connections of the intercept before are still open.
            case waitsForDrain
            case sidecarRunning
            case tunnelUp
            case portMapped
            case localServerMissing
            // stop
            case originalAnswers
            /// In its place, where there is no original that could.
            case nothingAnswers
            case drained
        }

        public var name: Name
        public var seconds: Double
        /// Of `portMapped` and `localServerMissing`.
        public var mapping: StartRequest.Mapping?
        /// Of `tunnelUp`.
        public var sidecars: [SidecarStatus]
        /// Of `drained`: how many were open at the stop, and how many of them had to be reset.
        public var connections: UInt64?
        public var reset: UInt64?
        /// Of `nothingAnswers`: why, in a clause.
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
    /// The tunnel is down: the original answers.
    case degraded = "Degraded"
    case stopping = "Stopping"
    case failed = "Failed"
}

/// One of this workspace's intercepts, as its daemon knows it.
public struct InterceptStatus: Codable, Equatable, Sendable {
    public var environment: EnvironmentReference
    public var service: String
    public var phase: Phase
    /// Of a phase that isn't Active: why, in a clause.
    public var reason: String?
    /// RFC 3339, UTC: when the phase began.
    public var phaseSince: String
    /// RFC 3339, UTC: when the intercept began.
    public var since: String
    public var generation: UInt64
    public var mappings: [StartRequest.Mapping]
    /// Ports of `mappings` behind which nothing listens.
    public var missingLocalServers: [UInt16]
    /// The same, of UDP; nil: none.
    public var missingDatagramServers: [UInt16]?
    /// `original` or `refuse`; nil: a daemon of an earlier version doesn't say.
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
    /// Nothing listens where the mapping leads.
    public func isMissing(_ mapping: StartRequest.Mapping) -> Bool {
        switch mapping.servicePort.transport {
        case .tcp: self.missingLocalServers.contains(mapping.service)
        case .udp: self.missingDatagramServers?.contains(mapping.service) ?? false
        }
    }

    /// Clients of a port behind which nothing listens get no answer from the original either.
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
    /// Bytes of UDP payload in the greatest message that the path takes; left out on `tcp` and `exec`.
    public var mtu: Int?
    /// How often the tunnel went on by another way.
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
