public import InterceptModel

/// The messages between the two agents on stream 0 (PROTOCOL, the control stream).
public enum ControlMessage: Equatable, Sendable {
    // Workspace to sidecar
    case start(Start)
    case mirror(Mirror)
    case stop
    case probe(Probe)
    // Sidecar to workspace
    case started(generation: UInt64)
    case failed(Failure)
    case withdrawn(holder: String?)
    case stopped(total: UInt64, passed: UInt64)
    case status(Status)
    case probed(Probed)
    /// A type that this version doesn't know.
    case unknown(type: String, generation: UInt64?)

    /// Divert exactly these ports.
    public struct Start: Equatable, Sendable {
        public var generation: UInt64
        public var workspace: String
        public var ports: [ServicePort]
        /// Ports that stay this workspace's own, though their clients go to the original: nothing listens behind them at the
        /// workspace. Nil: a workspace of an earlier version doesn't say.
        public var absent: [ServicePort]?
        public var onUnavailable: OnUnavailable = .original
        /// 0 to 600.
        public var drainSeconds = 10
        public var probes: Probes = .original
        public var proxyProtocol: ProxyProtocol?
        public var takeover = false

        public init(generation: UInt64, workspace: String, ports: [ServicePort]) {
            self.generation = generation
            self.workspace = workspace
            self.ports = ports
        }
    }

    /// Copy what clients send to exactly these ports. Another side answers them, and what the workspace's server answers goes
    /// nowhere.
    ///
    /// A type of its own, not a key of `start`: a sidecar ignores keys that it doesn't know, and would then give this workspace
    /// the connections themselves.
    public struct Mirror: Equatable, Sendable {
        public var generation: UInt64
        public var workspace: String
        public var ports: [ServicePort]
        public var probes: Probes = .original
        public var proxyProtocol: ProxyProtocol?

        public init(generation: UInt64, workspace: String, ports: [ServicePort]) {
            self.generation = generation
            self.workspace = workspace
            self.ports = ports
        }
    }

    /// Asks the sidecar to open a stream for each of these ports, as for a client, and to report the workspace's answers.
    public struct Probe: Equatable, Sendable {
        /// Chosen by the workspace, and repeated in the answer.
        public var id: UInt64
        public var ports: [ServicePort]

        public init(id: UInt64, ports: [ServicePort]) {
            self.id = id
            self.ports = ports
        }
    }

    public struct Probed: Equatable, Sendable {
        public var id: UInt64
        /// Ports without an answer are left out.
        public var answers: [ServicePort: Answer]

        public init(id: UInt64, answers: [ServicePort: Answer]) {
            self.id = id
            self.answers = answers
        }
    }

    public struct Failure: Equatable, Sendable {
        public enum Code: String, Sendable {
            case busy
            case port
            /// The key has no right to that here, or no longer.
            case denied
            case unsupported
            case `internal`
        }

        public var generation: UInt64?
        /// The `id` of the `probe` that failed.
        public var id: UInt64?
        public var code: Code
        public var reason: String
        /// For `busy`: the workspace that holds the service, and since when (RFC 3339, UTC).
        public var holder: String?
        public var since: String?

        public init(
            generation: UInt64?,
            code: Code,
            reason: String,
            holder: String? = nil,
            since: String? = nil,
            id: UInt64? = nil
        ) {
            self.generation = generation
            self.id = id
            self.code = code
            self.reason = reason
            self.holder = holder
            self.since = since
        }
    }

    /// The intercept's counts. Headers and answers aren't included in the bytes.
    public struct Status: Equatable, Sendable {
        public var open: UInt64
        public var total: UInt64
        public var passed: UInt64
        /// From clients to the workspace.
        public var bytesIn: UInt64
        public var bytesOut: UInt64
        /// Copies that were reset, or not begun, because the workspace or the tunnel couldn't keep up.
        public var behind: UInt64 = 0

        public init(open: UInt64, total: UInt64, passed: UInt64, bytesIn: UInt64, bytesOut: UInt64) {
            self.open = open
            self.total = total
            self.passed = passed
            self.bytesIn = bytesIn
            self.bytesOut = bytesOut
        }
    }
}

/// The bytes on stream 0 aren't a valid control message: the connection is closed with CONTROL_ERROR.
public struct ControlError: Error, Equatable, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}
