/// What is true of one intercept, and what follows from what happens to it.
///
/// ```
///   Pending ── all acknowledged, and probed ──▶ Active ── a tunnel is down, no sidecar ──▶ Degraded
///                                                 ▲                                          │
///                                                 └───────────── all acknowledged ───────────┘
///   Pending, Active, Degraded ── taken over, turned away ──▶ Failed
///   any ── stop ──▶ Stopping
/// ```
///
/// A value: the events go in, and what is to be done comes out.
struct InterceptMachine: Equatable {
    /// One sidecar's half of it.
    enum Replica: Equatable {
        /// Why it can't be reached, in a clause.
        case down(String)
        /// It is asked, and hasn't answered for this generation.
        case asked
        /// This generation is in force there.
        case acknowledged
    }

    enum Event: Equatable {
        /// All sidecars of the service, by their names.
        case replicas([String: Replica])
        /// A connection came through from each of them.
        case probed
        /// Another generation is asked for, and will be decided on as a whole.
        case raising
        case raised
        case takenOver(by: String)
        /// By whom doesn't matter: it can't go on, for this reason.
        case turnedAway(String)
        case stop
    }

    enum Action: Equatable {
        case nothing
        /// The phase or its reason is another now; and nothing else.
        case tell
        /// Look often for where the sidecars are.
        case watch
        /// They are all there: now and then is enough.
        case rest
        /// Let all sidecars go.
        case leave
    }

    private(set) var phase: Phase
    /// Of a phase that isn't Active: why, in a clause.
    private(set) var reason: String?
    private var replicas: [String: Replica] = [:]
    private var isProbed: Bool
    private var isRaising = false
    /// Nothing is asked of any sidecar until a person says what is to become of it.
    private(set) var isAbandoned = false

    static let noSidecar = "no sidecar is there"
    static let foundAfterCrash = "the workspace daemon was ended while it held this: start it again, or stop it"

    /// One that is being started: it is Active once a probe has come back.
    static var starting: InterceptMachine { InterceptMachine(phase: .pending, reason: nil, isProbed: false) }

    /// One that an earlier daemon has left to this one.
    static var resuming: InterceptMachine {
        InterceptMachine(phase: .degraded, reason: "the workspace daemon was replaced", isProbed: true)
    }

    /// One whose daemon was ended, with its tunnels: the original answers.
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

    /// Nothing happens any more but by a person's wish.
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

    /// What the sidecars' states come to.
    private mutating func judge() -> Action {
        let before = (self.phase, self.reason)
        if let reason = self.whatLacks {
            // A start that isn't done has its own errors.
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
