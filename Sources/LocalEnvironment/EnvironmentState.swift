import Environments
public import HostSupport
public import SidecarInterface

/// `state.json`: the local environment as its supervisor knows it. Only the supervisor writes it, each time as a whole.
public struct EnvironmentState: Codable, Equatable, Sendable {
    public static let currentVersion = 1

    public var version = Self.currentVersion
    public var name: String
    /// The compose file's absolute path.
    public var file: String
    public var supervisor: ProcessIdentity
    /// RFC 3339, UTC.
    public var since: String
    public var services: [ServiceState]
    /// What doesn't work in the environment itself, as a clause: this file can't be written, say.
    public var problem: String?

    public init(name: String, file: String, supervisor: ProcessIdentity, since: String, services: [ServiceState]) {
        self.name = name
        self.file = file
        self.supervisor = supervisor
        self.since = since
        self.services = services
    }

    public struct ServiceState: Codable, Equatable, Sendable {
        public var service: Service
        /// Nil: the service doesn't run.
        public var process: ProcessIdentity?
        public var restarts: Int
        public var sidecars: [SidecarState]
        /// Another program that has the service's port, so that the service can't start. An earlier version's supervisor
        /// says it in the reason alone.
        public var stranger: String?

        public init(service: Service, process: ProcessIdentity? = nil, restarts: Int = 0, sidecars: [SidecarState] = [])
        {
            self.service = service
            self.process = process
            self.restarts = restarts
            self.sidecars = sidecars
        }
    }

    public struct SidecarState: Codable, Equatable, Sendable {
        public enum State: String, Codable, Sendable {
            case starting
            case ready
            case restarting
        }

        /// `api-server-1`
        public var name: String
        public var state: State
        /// Why it isn't ready, as a clause.
        public var reason: String?
        public var process: ProcessIdentity?
        /// Nil until it is ready.
        public var location: SidecarLocation?
        /// The public key, base64, of the workspace that gets the service's connections; of the first one if there are several.
        public var divertingTo: String?
        /// All workspaces that hold ports. Nil: the sidecar hasn't reported any, or is of a version that has at most one
        /// holder.
        public var holders: [SidecarReport.Holder]?
        public var open: UInt64
        public var total: UInt64
        public var passed: UInt64

        public init(name: String, state: State = .starting, reason: String? = nil, process: ProcessIdentity? = nil) {
            self.name = name
            self.state = state
            self.reason = reason
            self.process = process
            self.open = 0
            self.total = 0
            self.passed = 0
        }
    }
}
