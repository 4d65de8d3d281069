import InterceptModel
import NIOCore
import Noise

/// The keys that hold ports at this sidecar: which workspace gets the clients of a port, which ones get copies, and which
/// holdings conflict.
///
/// ```
///   nothing ── admitted with a claim ──▶ claimed ── start, mirror ──▶ held ⇄ served
///      ▲ ▲                                  │                          │
///      │ └── nothing said for 30 s  ────────┘                          │
///      └──────────── stop, take-over, the connection's end ────────────┘
/// ```
///
/// The unit of conflict is a port with its transport: at most one key intercepts it. Mirrors conflict with nothing, but a
/// sidecar has at most 16. The table is of one sidecar, so of one network namespace. A key has one entry, of one kind.
struct HolderTable {
    struct Entry: Equatable {
        let key: PublicKey
        /// The workspace's name, as others see it.
        var label: String
        var since: UTCTime
        var kind: HoldingKind
        /// What its workspace asks for. Nil: a claim, whose workspace hasn't asked for anything yet.
        var holding: Holding?
        /// For an intercept, all ports that other keys can't intercept while this entry stands: those claimed, or those asked
        /// for with those that are absent. A workspace leaves out a port while nothing listens behind it, and keeps it
        /// nevertheless.
        var reserved: Set<ServicePort>
        /// The workspace gets what clients send to the ports of `holding` now.
        fileprivate(set) var isServed = false
        /// When a claim ends. Nil: the entry is no longer a claim.
        fileprivate(set) var claimEnds: NIODeadline?
        /// Each new entry has a larger number.
        fileprivate var number: UInt64 = 0
    }

    enum Refusal: Equatable {
        /// The holders of ports that are asked for, the oldest first; never empty.
        case busy([Entry])
        /// The key has a holding of this other kind.
        case otherKind(HoldingKind)
        case tooManyMirrors
    }

    /// † How long a claim stands until its workspace asks for ports.
    static let claimStands = TimeAmount.seconds(30)

    private var nextNumber: UInt64 = 0
    private var byKey: [PublicKey: Entry] = [:]
    private var byPort: [ServicePort: (holder: PublicKey?, mirrors: [PublicKey])] = [:]

    subscript(key: PublicKey) -> Entry? { self.byKey[key] }

    var isEmpty: Bool { self.byKey.isEmpty }

    /// The oldest first.
    var entries: [Entry] { self.byKey.values.sorted { $0.number < $1.number } }

    // MARK: A port

    /// The entry that holds all traffic of a port, whether it is served now or not.
    func holder(of port: ServicePort) -> Entry? { self.byPort[port]?.holder.flatMap { self.byKey[$0] } }

    /// The entry whose workspace answers the port's clients. Nil: the original answers, or the clients are refused.
    func defaultSide(of port: ServicePort) -> Entry? { self.holder(of: port).flatMap { $0.isServed ? $0 : nil } }

    /// The mirrors that get copies of what clients send to the port, the oldest first.
    func mirrors(of port: ServicePort) -> [Entry] {
        (self.byPort[port]?.mirrors ?? []).compactMap { self.byKey[$0] }.filter(\.isServed)
    }

    /// The ports whose clients must come to the sidecar.
    var divertedPorts: Set<ServicePort> {
        self.byKey.values.reduce(into: []) { ports, entry in
            guard let holding = entry.holding, entry.isServed || holding.refuses else { return }
            ports.formUnion(holding.ports)
        }
    }

    /// Those of the diverted TCP ports that a workspace intercepts.
    var interceptedPorts: Set<UInt16> {
        self.byKey.values.reduce(into: []) { ports, entry in
            guard let holding = entry.holding, holding.kind == .intercept, entry.isServed || holding.refuses else {
                return
            }
            ports.formUnion(holding.tcpPorts)
        }
    }

    /// For each of these ports, the name of the workspace that intercepts it, or else of its first mirror.
    func labels(of ports: Set<ServicePort>) -> [ServicePort: String] {
        var labels: [ServicePort: String] = [:]
        for port in ports { labels[port] = (self.holder(of: port) ?? self.mirrors(of: port).first)?.label }
        return labels
    }

    // MARK: Whether a key may hold

    /// Why this key can't hold these ports now; nil if it can.
    func refusal(of key: PublicKey, _ kind: HoldingKind, _ ports: some Sequence<ServicePort>) -> Refusal? {
        if let own = self.byKey[key], own.kind != kind, own.holding != nil { return .otherKind(own.kind) }
        switch kind {
        case .intercept:
            let asked = Set(ports)
            let others = self.entries.filter {
                $0.kind == .intercept && $0.key != key && !$0.reserved.isDisjoint(with: asked)
            }
            return others.isEmpty ? nil : .busy(others)
        case .mirror:
            let others = self.byKey.values.count { $0.kind == .mirror && $0.key != key }
            return others < HoldingKind.mirrorsAtMost ? nil : .tooManyMirrors
        }
    }

    // MARK: Changes

    /// Reserves ports for a key before its workspace asks for them. The caller has checked that nothing refuses that.
    mutating func claim(
        _ key: PublicKey,
        label: String,
        _ kind: HoldingKind,
        _ ports: Set<ServicePort>,
        at now: NIODeadline,
        since: UTCTime = .now
    ) {
        if var own = self.byKey[key], let holding = own.holding {
            // What the workspace asks for stays its own; other ports that it reserved before are free now.
            own.reserved = ports.union(holding.ports)
            return self.put(own)
        }
        var entry = Entry(key: key, label: label, since: since, kind: kind, holding: nil, reserved: ports)
        entry.claimEnds = now + Self.claimStands
        self.putNew(entry)
    }

    /// Serves the workspace's ports from now on. The caller has checked that nothing refuses that.
    mutating func hold(_ key: PublicKey, label: String, _ holding: Holding, since: UTCTime = .now) {
        var entry = Entry(
            key: key,
            label: label,
            since: since,
            kind: holding.kind,
            holding: holding,
            reserved: Set(holding.claimed),
            isServed: true
        )
        guard let before = self.byKey[key], before.kind == holding.kind else { return self.putNew(entry) }
        (entry.since, entry.number) = (before.since, before.number)
        // A workspace that doesn't say what is absent keeps all that it had.
        if holding.absent == nil { entry.reserved.formUnion(before.reserved) }
        self.put(entry)
    }

    mutating func rename(_ key: PublicKey, _ label: String) { self.byKey[key]?.label = label }

    /// The workspace can't be reached: it keeps its ports, and doesn't get what clients send.
    mutating func isNoLongerServed(_ key: PublicKey) {
        guard self.byKey[key]?.isServed ?? false else { return }
        self.byKey[key]?.isServed = false
    }

    /// Puts back a key's earlier entry.
    mutating func restore(_ entry: Entry?, of key: PublicKey) {
        guard let entry else { return self.remove(key) }
        self.put(entry)
    }

    mutating func remove(_ key: PublicKey) {
        guard self.byKey.removeValue(forKey: key) != nil else { return }
        self.index()
    }

    /// - Returns: the claims that have ended.
    mutating func expireClaims(at now: NIODeadline) -> [Entry] {
        let over = self.byKey.values.filter { $0.claimEnds.map { $0 <= now } ?? false }
        for entry in over { self.byKey[entry.key] = nil }
        if !over.isEmpty { self.index() }
        return over
    }

    var nextClaimEnd: NIODeadline? { self.byKey.values.lazy.compactMap(\.claimEnds).min() }

    private mutating func putNew(_ entry: Entry) {
        var entry = entry
        entry.number = self.nextNumber
        self.nextNumber += 1
        self.put(entry)
    }

    private mutating func put(_ entry: Entry) {
        self.byKey[entry.key] = entry
        self.index()
    }

    private mutating func index() {
        self.byPort = [:]
        for entry in self.entries {
            for port in Set(entry.holding?.ports ?? []) {
                switch entry.kind {
                case .intercept: self.byPort[port, default: (nil, [])].holder = entry.key
                case .mirror: self.byPort[port, default: (nil, [])].mirrors.append(entry.key)
                }
            }
        }
    }
}
