import CommandText
import FoundationEssentials
public import HostSupport
public import InterceptModel

/// A line of a sidecar's standard output, which says that it is ready, and who intercepts. Each line is complete by itself;
/// the last one counts.
public struct SidecarReport: Equatable, Sendable {
    /// Base64.
    public var publicKey: String
    /// Where its tunnel takes byte streams, HOST:PORT.
    public var tcp: String?
    /// The same for datagrams; nil: it takes none.
    public var udp: String?
    /// Where it takes the service's clients.
    public var listen: [ServicePort: String] = [:]
    public var metrics: String?
    /// The holder whose intercept began first. Earlier versions of kl read only this one.
    public var intercept: Intercept?
    /// All workspaces that hold ports, or may do so as soon as they connect. Nil: the sidecar is of a version that has one
    /// holder at most.
    public var holders: [Holder]?

    /// Which address the original sees where a client is passed on to it. Nil: the sidecar is of a version that doesn't tell.
    public var originalSees: SeenAddress?

    public struct Holder: Codable, Equatable, Sendable {
        /// Base64.
        public var key: String
        public var workspace: String
        public var kind: HoldingKind
        /// `80`, `53/udp`
        public var ports: [String]
        /// RFC 3339, UTC.
        public var since: String
        /// RFC 3339, UTC: when the sidecar last heard of the workspace. Nil: it hasn't connected yet.
        public var lastSeen: String?
        /// The workspace gets the connections, or their copies, now.
        public var isServed: Bool
        public var open: UInt64
        public var total: UInt64
        public var passed: UInt64
        /// Copies that were reset, or not begun, because the workspace or the tunnel couldn't keep up.
        public var behind: UInt64

        public init(key: String, workspace: String, kind: HoldingKind, ports: [ServicePort], since: String) {
            self.key = key
            self.workspace = workspace
            self.kind = kind
            self.ports = ports.map { "\($0)" }
            self.since = since
            self.isServed = false
            self.open = 0
            self.total = 0
            self.passed = 0
            self.behind = 0
        }

        /// The entries of `ports` that can be parsed.
        public var servicePorts: [ServicePort] {
            self.ports.compactMap { try? Admission.ports($0) }.flatMap { $0 }.sorted()
        }
    }

    /// Who intercepts. What an earlier version doesn't say is nil.
    public struct Intercept: Codable, Equatable, Sendable {
        public var diverting: Bool
        /// Base64.
        public var key: String?
        public var workspace: String?
        /// RFC 3339, UTC.
        public var since: String?
        public var generation: UInt64?
        public var ports: [UInt16]?
        public var udpPorts: [UInt16]?
        public var open: UInt64?
        public var total: UInt64?
        public var passed: UInt64?

        public init(diverting: Bool) { self.diverting = diverting }
    }

    public init(publicKey: String) { self.publicKey = publicKey }

    // MARK: Writing

    /// Its keys have an order, which people are used to.
    public var line: String { self.line(with: []) }

    /// - Parameter more: keys that aren't part of a report, and follow it.
    public func line(with more: [(String, JSONLine.Value)]) -> String {
        var fields: [(String, JSONLine.Value)] = [("ready", .bool(true)), ("publicKey", .string(self.publicKey))]
        if let tcp = self.tcp { fields.append(("tcp", .string(tcp))) }
        if let udp = self.udp { fields.append(("udp", .string(udp))) }
        let listen = self.listen.sorted { $0.key < $1.key }
        fields.append(("listen", .object(listen.map { ("\($0.key)", .string($0.value)) })))
        if let metrics = self.metrics { fields.append(("metrics", .string(metrics))) }
        if let sees = self.originalSees {
            fields.append(("originalSees", .string(sees.whose.rawValue)))
            if let reason = sees.reason { fields.append(("originalSeesReason", .string(reason))) }
        }
        if let intercept = self.intercept { fields.append(("intercept", .object(intercept.fields))) }
        if let holders = self.holders {
            fields.append(("holders", .array(holders.map { .object($0.fields) })))
        }
        return JSONLine.object(fields + more)
    }

    /// Holders as one JSON array, as in the line.
    static func text(of holders: [Holder]) -> String {
        JSONLine.text(of: .array(holders.map { .object($0.fields) }))
    }

    // MARK: Reading

    static func holders(in text: String) -> [Holder]? {
        guard text.utf8.count <= Self.maxBytes else { return nil }
        return try? JSONDecoder().decode([Holder].self, from: Data(text.utf8))
    }

    /// † A report names each port, and little else.
    private static let maxBytes = 1_048_576

    private struct Content: Decodable {
        var ready: Bool
        var publicKey: String
        var tcp: String?
        var udp: String?
        var listen: [String: String]?
        var metrics: String?
        var originalSees: String?
        var originalSeesReason: String?
        var intercept: Intercept?
        var holders: [Holder]?
    }

    /// Nil: the line isn't a report.
    public init?(line: some StringProtocol) {
        guard line.first == "{", line.utf8.count <= Self.maxBytes,
            let content = try? JSONDecoder().decode(Content.self, from: Data(line.utf8)), content.ready
        else { return nil }
        self.publicKey = content.publicKey
        self.tcp = content.tcp
        self.udp = content.udp
        for (port, place) in content.listen ?? [:] {
            if let port = try? ServedPort(port).port { self.listen[port] = place }
        }
        self.metrics = content.metrics
        self.originalSees = SeenAddress(content.originalSees, because: content.originalSeesReason)
        self.intercept = content.intercept
        self.holders = content.holders
    }
}

extension SidecarReport.Intercept {
    fileprivate var fields: [(String, JSONLine.Value)] {
        func numbers(_ ports: [UInt16]) -> JSONLine.Value { .array(ports.map { .integer(UInt64($0)) }) }
        let fields: [(String, JSONLine.Value?)] = [
            ("diverting", .bool(self.diverting)),
            ("key", self.key.map { .string($0) }),
            ("workspace", self.workspace.map { .string($0) }),
            ("since", self.since.map { .string($0) }),
            ("generation", self.generation.map { .integer($0) }),
            ("ports", self.ports.map(numbers)),
            ("udpPorts", self.udpPorts.map(numbers)),
            ("open", self.open.map { .integer($0) }),
            ("total", self.total.map { .integer($0) }),
            ("passed", self.passed.map { .integer($0) }),
        ]
        return fields.compactMap { name, value in value.map { (name, $0) } }
    }
}

extension SidecarReport.Holder {
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.key = try values.decode(String.self, forKey: .key)
        self.workspace = try values.decode(String.self, forKey: .workspace)
        // Of a kind that only later versions know: whoever asks for its ports is to take them for held.
        self.kind = HoldingKind(rawValue: try values.decode(String.self, forKey: .kind)) ?? .intercept
        self.ports = try values.decode([String].self, forKey: .ports)
        self.since = try values.decode(String.self, forKey: .since)
        self.lastSeen = try values.decodeIfPresent(String.self, forKey: .lastSeen)
        self.isServed = try values.decode(Bool.self, forKey: .isServed)
        self.open = try values.decode(UInt64.self, forKey: .open)
        self.total = try values.decode(UInt64.self, forKey: .total)
        self.passed = try values.decode(UInt64.self, forKey: .passed)
        self.behind = try values.decode(UInt64.self, forKey: .behind)
    }

    fileprivate var fields: [(String, JSONLine.Value)] {
        let fields: [(String, JSONLine.Value?)] = [
            ("key", .string(self.key)),
            ("workspace", .string(self.workspace)),
            ("kind", .string(self.kind.rawValue)),
            ("ports", .array(self.ports.map { .string($0) })),
            ("since", .string(self.since)),
            ("lastSeen", self.lastSeen.map { .string($0) }),
            ("isServed", .bool(self.isServed)),
            ("open", .integer(self.open)),
            ("total", .integer(self.total)),
            ("passed", .integer(self.passed)),
            ("behind", .integer(self.behind)),
        ]
        return fields.compactMap { name, value in value.map { (name, $0) } }
    }
}

/// What a sidecar tells its supervisor by sd_notify(3) whenever it changes: to whom new connections go, and how many there
/// were.
public struct DivertingNotice: Equatable, Sendable {
    /// The workspace's public key, base64; nil: the original gets them.
    public var divertingTo: String?
    public var open: UInt64
    public var total: UInt64
    public var passed: UInt64
    /// Nil: the sidecar is of a version that has one holder at most.
    public var holders: [SidecarReport.Holder]?
    /// Nil: the sidecar is of a version that doesn't tell.
    public var originalSees: SeenAddress?

    public init(divertingTo: String?, open: UInt64, total: UInt64, passed: UInt64) {
        self.divertingTo = divertingTo
        self.open = open
        self.total = total
        self.passed = passed
    }

    public var fields: [(String, String)] {
        let fields: [(String, String?)] = [
            ("X_KL_DIVERTING", self.divertingTo ?? ""), ("X_KL_OPEN", "\(self.open)"), ("X_KL_TOTAL", "\(self.total)"),
            ("X_KL_PASSED", "\(self.passed)"), ("X_KL_HOLDERS", self.holders.map(SidecarReport.text(of:))),
            ("X_KL_ORIGINAL_SEES", self.originalSees?.whose.rawValue),
            ("X_KL_ORIGINAL_SEES_REASON", self.originalSees?.reason),
        ]
        return fields.compactMap { name, value in value.map { (name, $0) } }
    }

    /// Nil: these fields are of another notification.
    public init?(_ fields: [String: String]) {
        guard let key = fields["X_KL_DIVERTING"] else { return nil }
        func count(_ name: String) -> UInt64 { fields[name].flatMap { UInt64($0) } ?? 0 }
        self.init(
            divertingTo: key.isEmpty ? nil : key,
            open: count("X_KL_OPEN"),
            total: count("X_KL_TOTAL"),
            passed: count("X_KL_PASSED")
        )
        self.holders = fields["X_KL_HOLDERS"].flatMap(SidecarReport.holders(in:))
        self.originalSees = SeenAddress(
            fields["X_KL_ORIGINAL_SEES"],
            because: fields["X_KL_ORIGINAL_SEES_REASON"]
        )
    }
}

/// When a ready line is printed again though nothing has changed.
///
/// An environment's log keeps only what was written last, and is where other workspaces read who holds what: other lines must not
/// push the ready line out of it.
public struct ReportUpkeep: Sendable {
    /// † While anything else is written.
    public static let interval = Duration.seconds(120)
    /// † Docker keeps at least 10 MB of a sidecar's.
    public static let otherBytesAtMost: UInt64 = 64 * 1_024

    private var printedAt: ContinuousClock.Instant
    private var writtenThen: UInt64

    /// - Parameter written: the number of bytes written so far, with the ready line.
    public init(written: UInt64, at now: ContinuousClock.Instant = .now) {
        self.writtenThen = written
        self.printedAt = now
    }

    public func isDue(written: UInt64, at now: ContinuousClock.Instant = .now) -> Bool {
        let others = written - self.writtenThen
        return others >= Self.otherBytesAtMost || others > 0 && now - self.printedAt >= Self.interval
    }
}
