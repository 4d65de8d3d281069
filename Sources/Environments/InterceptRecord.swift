public import InterceptModel

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
