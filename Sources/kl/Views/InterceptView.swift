import Environments
import InterceptModel
import WorkspaceAPI

/// An intercept or a mirror as the CLI prints it, from the environment's record or from this workspace's daemon.
struct InterceptView: Encodable {
    struct Port: Codable {
        var service: UInt16
        var transport = "tcp"
        var target: String
        /// False: nothing listens there. Nil: it isn't known here.
        var isListening: Bool?
    }

    struct Connections: Codable {
        var open: UInt64
        var total: UInt64
        var passed: UInt64
        /// Of a mirror: copies that were reset, or not begun, because the workspace couldn't keep up.
        var behind: UInt64?
    }

    struct Traffic: Codable {
        var bytesIn: UInt64
        var bytesOut: UInt64
    }

    var environment: String
    var service: String
    var kind: HoldingKind
    var phase: Phase
    var reason: Reason?
    var phaseSince: String?
    var workspace: String
    var publicKey: String
    /// Whether it is this workspace's own.
    var isOwn: Bool
    var since: String
    /// When the environment last heard of the workspace. Nil if this workspace's own daemon tells of the intercept.
    var lastSeen: String?
    var generation: UInt64?
    var ports: [Port]
    var connections: Connections?
    var traffic: Traffic?
    /// What clients get when the workspace can't answer: `original` or `refuse`.
    var onUnavailable: OnUnavailable?
    /// Which address the service's original sees where a client is passed on to it. Nil: it isn't known.
    var originalSees: SeenAddress?
    /// The service whose ports the holder holds, if that is another one that leads to the same ports of the same replicas.
    var through: String?
    /// Only known for this workspace's own intercepts.
    var sidecars: [SidecarStatus]?

    /// Why its phase isn't Active. Printed as a clause.
    enum Reason: Encodable, CustomStringConvertible {
        case said(String)
        /// This workspace's daemon isn't running; what happens to clients meanwhile.
        case daemonIsGone(HoldingKind, clients: String)
        /// Nothing answers for the service, for this reason.
        case nothingAnswers(String, isDaemonGone: Bool)

        var description: String {
            let daemonIsGone = "the workspace daemon isn't running"
            return switch self {
            case .said(let reason): reason
            case .daemonIsGone(let kind, let clients):
                "\(daemonIsGone), so \(clients). Start the \(kind.rawValue) again, or stop it"
            case .nothingAnswers(let why, let isDaemonGone):
                "\(isDaemonGone ? "\(daemonIsGone), and " : "")nothing answers: \(why)"
            }
        }

        func encode(to encoder: any Encoder) throws {
            var value = encoder.singleValueContainer()
            try value.encode(self.description)
        }
    }

    /// What happens to clients in the meantime. A sidecar refuses them as long as it waits for a workspace: ten minutes.
    private static func clients(of record: InterceptRecord) -> String {
        if record.kind == .mirror { return "nothing is copied" }
        return record.refuses == true ? "clients are refused, for 10 min at most" : "the original answers"
    }

    /// From the environment's record.
    /// - Parameter silent: set if this workspace's daemon, which knows more, doesn't answer.
    init(
        _ record: InterceptRecord,
        environment: EnvironmentReference,
        isOwn: Bool,
        _ silent: SilentDaemon? = nil
    ) {
        self.environment = environment.name
        self.service = record.service
        self.kind = record.kind
        self.lastSeen = record.lastSeen
        self.workspace = record.holder.label
        self.publicKey = record.holder.publicKey
        self.isOwn = isOwn
        self.since = record.since
        self.ports = record.ports.map {
            Port(
                service: $0.service,
                transport: ($0.transport ?? .tcp).rawValue,
                target: Self.text($0.target),
                isListening: nil
            )
        }
        self.connections = record.connections.map {
            Connections(open: $0.open, total: $0.total, passed: $0.passed, behind: $0.behind)
        }
        self.originalSees = record.originalSees
        self.through = record.through
        if isOwn {
            self.phase = .degraded
            self.reason =
                silent.map {
                    .said(
                        "\($0.reason). End it with '\($0.mend)', then start the \(record.kind.rawValue) again, or stop it"
                    )
                } ?? .daemonIsGone(record.kind, clients: Self.clients(of: record))
        } else if record.isDiverting == false {
            self.phase = .degraded
            self.reason = .said("the holder's workspace can't be reached, so \(Self.clients(of: record))")
        } else {
            self.phase = .active
        }
    }

    /// This workspace's daemon runs, and holds nothing of the service: a stop couldn't change the record, say.
    mutating func isOnlyRecorded() {
        let what = self.kind == .mirror ? "mirror" : "intercept"
        self.reason = .said("it is only on record, and nothing reaches you. Stop the \(what), or start it again")
    }

    /// Adds that the service's original doesn't answer either.
    /// - Parameter reason: why nothing answers, as a clause.
    mutating func nothingAnswers(because reason: String) {
        let isDaemonGone = if case .daemonIsGone? = self.reason { true } else { false }
        self.reason = .nothingAnswers(reason, isDaemonGone: isDaemonGone)
    }

    /// From this workspace's daemon.
    init(_ status: InterceptStatus, holder: Member) {
        self.environment = status.environment.name
        self.service = status.service
        self.kind = status.kind
        self.phase = status.phase
        self.reason = status.reason.map { .said($0) }
        self.phaseSince = status.phaseSince
        self.workspace = holder.label
        self.publicKey = holder.publicKey
        self.isOwn = true
        self.since = status.since
        self.generation = status.generation
        self.ports = status.mappings.map {
            Port(
                service: $0.port.number,
                transport: $0.port.transport.rawValue,
                target: $0.target.shown,
                isListening: Self.isListening($0, status)
            )
        }
        self.connections = Connections(
            open: status.open,
            total: status.total,
            passed: status.passed,
            behind: status.behind
        )
        self.traffic = Traffic(bytesIn: status.bytesIn, bytesOut: status.bytesOut)
        self.onUnavailable = status.onUnavailable
        self.originalSees = .worst(of: status.sidecars.compactMap(\.originalSees))
        self.sidecars = status.sidecars
    }

    /// For UDP, only the absence of a server can be known.
    private static func isListening(_ mapping: PortMapping, _ status: InterceptStatus) -> Bool? {
        guard status.phase == .active else { return nil }
        if status.isMissing(mapping) { return false }
        return mapping.port.transport == .udp ? nil : true
    }

    private static func text(_ target: String) -> String {
        target.hasPrefix("127.0.0.1:") ? "localhost:" + target.dropFirst("127.0.0.1:".count) : target
    }
}

extension Endpoint {
    /// The form that people see.
    var shown: String { self.host == "127.0.0.1" ? "localhost:\(self.port)" : self.description }
}

extension InterceptView {
    /// A record without ports stands for all of them.
    func holds(_ port: ServicePort) -> Bool {
        self.ports.isEmpty
            || self.ports.contains { $0.service == port.number && $0.transport == port.transport.rawValue }
    }
}

/// All holders of an environment's services. In JSON, mirrors are apart: a program that reads `intercepts` looks for the
/// workspaces that get the clients.
struct InterceptList: Encodable {
    var environment: String
    var holders: [InterceptView]

    private enum CodingKeys: CodingKey {
        case environment, intercepts, mirrors
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(self.environment, forKey: .environment)
        try values.encode(self.holders.filter { $0.kind == .intercept }, forKey: .intercepts)
        try values.encode(self.holders.filter { $0.kind == .mirror }, forKey: .mirrors)
    }
}
