import WorkspaceAPI

/// The state of one intercept.
///
/// ```
///   Pending ── all acknowledged, and probed ──▶ Active ── a tunnel is down, no sidecar ──▶ Degraded
///                                                 ▲                                          │
///                                                 └───────────── all acknowledged ───────────┘
///   Pending, Active, Degraded ── taken over, turned away ──▶ Failed
///   any ── stop ──▶ Stopping
/// ```
///
/// A value: events go in, the action to take comes out.
struct InterceptMachine: Equatable {
    /// The state of one sidecar.
    enum Replica: Equatable {
        /// It can't be reached; why, as a clause.
        case down(String)
        /// It has been asked for this generation, and hasn't answered yet.
        case asked
        /// This generation is in force there.
        case acknowledged
    }

    enum Event: Equatable {
        /// All sidecars of the service, by their names.
        case replicas([String: Replica])
        /// A test connection came through from each sidecar.
        case probed
        /// A new generation is being asked for. Until `raised`, sidecars that haven't acknowledged it don't make the
        /// intercept Degraded.
        case raising
        case raised
        /// Until the user does something about it, what happens in the environment isn't seen, or a replica has no sidecar, for
        /// this reason. Nil: neither.
        case blind(String?)
        case takenOver(by: String)
        /// A sidecar has turned the workspace away, so the intercept can't go on, for this reason. It doesn't matter which
        /// one.
        case turnedAway(String)
        case stop
    }

    enum Action: Equatable {
        case nothing
        /// The phase or its reason has changed: only report it.
        case tell
        /// Look often for the sidecars' locations.
        case watch
        /// All sidecars are there: looking now and then is enough.
        case rest
        /// Stop looking for sidecars.
        case leave
    }

    private(set) var phase: Phase
    /// Why the phase isn't Active, as a clause.
    private(set) var reason: String?
    private var replicas: [String: Replica] = [:]
    private var isProbed: Bool
    private var isRaising = false
    /// Why not all of the environment is seen or served.
    private var blindness: String?
    /// Found after a crash: sidecars aren't asked for anything until the user starts or stops it.
    private(set) var isAbandoned = false

    static let noSidecar = "no sidecar is there"
    static let foundAfterCrash = "the workspace daemon was ended while it held this: start it again, or stop it"

    /// An intercept that is being started. It becomes Active once the sidecars have acknowledged it and the probe has
    /// succeeded.
    static var starting: InterceptMachine { InterceptMachine(phase: .pending, reason: nil, isProbed: false) }

    /// An intercept that the previous daemon has handed over.
    static var resuming: InterceptMachine {
        InterceptMachine(phase: .degraded, reason: "the workspace daemon was replaced", isProbed: true)
    }

    /// An intercept whose daemon was ended, and its tunnels with it: the original answers.
    static var abandoned: InterceptMachine {
        var machine = InterceptMachine(phase: .degraded, reason: Self.foundAfterCrash, isProbed: false)
        machine.isAbandoned = true
        return machine
    }

    private init(phase: Phase, reason: String?, isProbed: Bool) {
        self.phase = phase
        self.reason = reason
        self.isProbed = isProbed
    }

    /// Whether only a request of the user's can still change it.
    var isOver: Bool { self.phase == .stopping || self.phase == .failed || self.isAbandoned }

    mutating func handle(_ event: Event) -> Action {
        switch event {
        case .stop:
            guard self.phase != .stopping else { return .nothing }
            self.become(.stopping, nil)
            self.isAbandoned = false
            return .leave
        case _ where self.isOver: return .nothing
        case .takenOver(let holder): return self.fail("taken over by \(holder)")
        case .turnedAway(let reason): return self.fail(reason)
        case .probed:
            self.isProbed = true
            return self.judge()
        case .blind(let reason):
            guard self.blindness != reason else { return .nothing }
            self.blindness = reason
            return self.judge()
        case .raising:
            self.isRaising = true
            return .nothing
        case .raised:
            self.isRaising = false
            return self.judge()
        case .replicas(let replicas):
            self.replicas = replicas
            return self.judge()
        }
    }

    private mutating func fail(_ reason: String) -> Action {
        self.become(.failed, reason)
        return .leave
    }

    private mutating func become(_ phase: Phase, _ reason: String?) {
        self.phase = phase
        self.reason = reason
    }

    /// Derives the phase from the sidecars' states.
    private mutating func judge() -> Action {
        let before = (self.phase, self.reason)
        if let reason = self.whatLacks ?? self.blindness {
            // Until a start is done, it reports its own errors.
            guard self.phase != .pending else { return .nothing }
            self.become(.degraded, reason)
            return before == (self.phase, self.reason) ? .nothing : before.0 == .degraded ? .tell : .watch
        }
        guard self.isProbed || self.phase != .pending else { return .nothing }
        self.become(.active, nil)
        return before.0 == .active ? .nothing : .rest
    }

    private var whatLacks: String? {
        guard !self.replicas.isEmpty else { return Self.noSidecar }
        var downs: [String] = []
        var isAsking = false
        for (name, replica) in self.replicas.sorted(by: { $0.key < $1.key }) {
            switch replica {
            case .acknowledged: break
            case .asked: if !self.isRaising { isAsking = true }
            case .down(let reason): downs.append(self.replicas.count > 1 ? "\(name): \(reason)" : reason)
            }
        }
        if let first = downs.first {
            return downs.count > 1 ? "\(first), and \(downs.count - 1) more of \(self.replicas.count) sidecars" : first
        }
        return isAsking ? "a sidecar is asked again" : nil
    }
}
