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

extension Member {
    /// `ada@thinkpad`; with the key's beginning and end, if it is known, where `other`, to whom it is shown, has the same label:
    /// `ada@thinkpad 9f3c…Yk=`
    public func shown(to other: String) -> String {
        self.label == other && !self.publicKey.isEmpty
            ? "\(self.label.printable) \(self.publicKey.abbreviatedKey)" : self.label.printable
    }
}

extension String {
    /// "9f3c…Yk="
    public var abbreviatedKey: String { self.count > 12 ? "\(self.prefix(4))…\(self.suffix(3))" : self }
}

/// Says that a workspace holds ports of a service. A service has a record for each workspace that holds some. Other workspaces
/// see no more of a holder than this; the holder's own daemon knows more.
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

        public var port: ServicePort { ServicePort(self.service, self.transport ?? .tcp) }
    }

    public var service: String
    public var holder: Member
    /// RFC 3339, UTC.
    public var since: String
    /// When the environment last heard of the holder's workspace; RFC 3339, UTC. Nil: it isn't known.
    public var lastSeen: String?
    public var ports: [Port]
    /// True: clients are refused while the workspace can't answer. Nil: the original answers them, or it isn't known.
    public var refuses: Bool?
    /// Nil: an intercept, as each record was before there were other kinds.
    private var otherKind: HoldingKind?
    /// Whether a sidecar gives connections, or their copies, to the holder's workspace, as the environment sees it; nil if it
    /// can't tell.
    public var isDiverting: Bool?
    /// The environment's sidecars' own counts.
    public var connections: Connections?
    /// Which address the service's original sees where a sidecar passes a client on to it, as the sidecars say. Nil: it isn't known.
    public var originalSees: SeenAddress?
    /// Another service, whose ports the holder holds, and behind which there are the same ports of the same replicas. Nil: it holds
    /// this service's own.
    public var through: String?

    public struct Connections: Codable, Equatable, Sendable {
        public var open: UInt64
        public var total: UInt64
        public var passed: UInt64
        /// Of a mirror: copies that were reset, or not begun, because the workspace couldn't keep up.
        public var behind: UInt64?

        public init(open: UInt64, total: UInt64, passed: UInt64, behind: UInt64? = nil) {
            self.open = open
            self.total = total
            self.passed = passed
            self.behind = behind
        }
    }

    private enum CodingKeys: String, CodingKey {
        case service, holder, since, lastSeen, ports, refuses, isDiverting, connections, originalSees, through
        case otherKind = "kind"
    }

    public init(service: String, holder: Member, since: String, ports: [Port], kind: HoldingKind = .intercept) {
        self.service = service
        self.holder = holder
        self.since = since
        self.ports = ports
        self.kind = kind
    }
}

extension InterceptRecord {
    /// Adds what one replica's sidecar says of the holder.
    package mutating func add(_ counts: Connections, isServed: Bool, lastSeen: String?) {
        self.lastSeen = [self.lastSeen, lastSeen].compactMap(\.self).max()
        self.isDiverting = (self.isDiverting ?? false) || isServed
        let before = self.connections ?? Connections(open: 0, total: 0, passed: 0)
        self.connections = Connections(
            open: before.open &+ counts.open,
            total: before.total &+ counts.total,
            passed: before.passed &+ counts.passed,
            behind: counts.behind.map { (before.behind ?? 0) &+ $0 }
        )
    }

    public var kind: HoldingKind {
        get { self.otherKind ?? .intercept }
        set { self.otherKind = newValue == .intercept ? nil : newValue }
    }

    /// Whether both can't be in force at once: of two keys that intercept the same port only one gets it. A mirror conflicts
    /// with no other record. A record without ports stands for all of them.
    public func conflicts(with other: InterceptRecord) -> Bool {
        guard self.service == other.service, self.holder.publicKey != other.holder.publicKey,
            self.kind == .intercept, other.kind == .intercept
        else { return false }
        return self.ports.isEmpty || other.ports.isEmpty
            || !Set(self.ports.map(\.port)).isDisjoint(with: other.ports.map(\.port))
    }
}
