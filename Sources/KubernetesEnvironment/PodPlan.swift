import InterceptModel
import SidecarInterface

/// What this process knows of one pod's sidecars beyond what the API server says. By the pod's UID: a pod of the same name that
/// comes later is another one.
struct PodMemory: Equatable, Sendable {
    typealias Instant = ContinuousClock.Instant

    /// A container that this process has added.
    struct Injection: Equatable, Sendable {
        var name: String
        var at: Instant
    }

    /// What came of the last attempt.
    struct Failure: Equatable, Sendable {
        var problem: Problem
        /// Not tried again until then.
        var until: Instant
        /// False: it comes by itself, as far as can be told.
        var isFinal = true
    }

    /// A key that a sidecar admits.
    struct Admitted: Equatable, Sendable {
        var kind: HoldingKind
        /// Its workspace has left, and the sidecar forgets it then. Nil: the workspace needs it.
        var until: Instant?
        /// The workspace has come back to a key that was admitted for an earlier start, without asking the sidecar.
        var isFromBefore = false

        init(_ kind: HoldingKind) { self.kind = kind }
    }

    var injections: [Injection] = []
    /// Since when containers have been seen that don't run yet.
    var waiting: [String: Instant] = [:]
    /// What each container's sidecar says of itself.
    var words: [String: SidecarWords] = [:]
    /// The keys that this process has had admitted, by container and key.
    var admits: [String: [String: Admitted]] = [:]
    /// The pod's address when the sidecar was first heard. With the pod's network all that ran in it has gone.
    var address: [String: String] = [:]
    /// Containers that don't run, whatever the API server says; and such as were asked to end.
    var lost: Set<String> = []
    /// Where this process's Services lead to the sidecars from, by container and key.
    var places: [String: [String: TunnelService.Place]] = [:]
    var failure: Failure?
    /// Work is under way, of which `PodPlan` will know the result.
    var isBusy = false
    /// The key that a sidecar here accepts when that work is done.
    var keyToCome: String?

    /// † The kubelet starts a container some tenths of a second after it was added; an image may have to be fetched first.
    static let startsWithin = Duration.seconds(20)
    /// † The kubelet makes the container, or fetches its image, of which it says nothing until that has come to something: 20 s where
    /// the name of a registry isn't answered for (containerd 2.1.9).
    static let fetchedWithin = Duration.seconds(40)
    /// † An entry in a pod's specification can't be removed.
    static let injectionsAtMost = 5
    static let injectionsWithin = Duration.seconds(600)
    /// † How long after it was added a container that can't be started keeps another one from being added.
    static let stuckFor = Duration.seconds(60)
    /// After the first, the second and so on.
    private static let pauses: [Duration] = [.seconds(1), .seconds(5), .seconds(30), .seconds(60)]

    /// Whether the sidecar accepts the key for this. Who was admitted for copies has no right to more.
    func admits(_ key: String, to sidecar: String, for kind: HoldingKind, at now: Instant) -> Bool {
        guard let known = self.admits[sidecar]?[key], known.kind == kind else { return false }
        return known.until.map { now < $0 } ?? true
    }

    /// † The connection, after whose end the sidecar counts, may end a little before its workspace says that it has left.
    private static let forgottenBefore = Duration.seconds(60)

    /// The key's workspace has left.
    mutating func left(_ key: String, _ sidecars: [PodSidecar], at now: Instant) {
        for (name, var known) in self.admits.compactMapValues({ $0[key] }) where known.until == nil {
            let linger = sidecars.first { $0.name == name }?.linger ?? .zero
            known.until = now + linger - Self.forgottenBefore
            self.admits[name]?[key] = known
        }
    }

    /// The key's workspace is back.
    mutating func isBack(_ key: String, at sidecar: String) {
        guard self.admits[sidecar]?[key]?.until != nil else { return }
        self.admits[sidecar]?[key]?.until = nil
        self.admits[sidecar]?[key]?.isFromBefore = true
    }

    func recentInjections(at now: Instant) -> [Injection] {
        self.injections.filter { now - $0.at < Self.injectionsWithin }
    }

    /// Whether one more container may be added now. Nil: not in the next minutes.
    func mayInject(at now: Instant) -> Bool? {
        let recent = self.recentInjections(at: now)
        guard recent.count < Self.injectionsAtMost else { return nil }
        guard let last = recent.last else { return true }
        return now - last.at >= Self.pauses[min(recent.count, Self.pauses.count) - 1]
    }
}

/// Decides what a pod needs next, so that a workspace has a sidecar there. A value: what is known goes in, a step comes out.
struct PodPlan {
    let pod: Pod
    /// The pod's own ports that the workspace holds.
    let ports: Set<ServicePort>
    /// The workspace's.
    let key: String
    let kind: HoldingKind
    /// The image that sidecars are made of.
    let image: String
    /// The user has named it, so that a sidecar of another one isn't enough.
    let isImageWanted: Bool
    /// A Service of its own leads to the sidecar.
    var isReachedByService = false

    enum Step: Equatable {
        /// The pod needs no sidecar, or can't have one.
        case leave
        /// A sidecar that admits the key runs there.
        case keep(PodSidecar, SidecarWords)
        /// It was added with the key, and runs now: it says where it listens.
        case read(PodSidecar)
        case admit(PodSidecar)
        /// It admits the key, and is to be made reachable by a Service.
        case expose(PodSidecar, SidecarWords)
        /// A sidecar runs that is of no use to this workspace; another one can be there only once that has ended.
        case replace(PodSidecar)
        case inject
        /// Nothing to do now; for what, as a clause.
        case wait(String)
        case fail(Problem)
    }

    func step(_ memory: PodMemory, at now: PodMemory.Instant) -> Step {
        guard !self.ports.isEmpty, !self.pod.isOnHostNetwork, !self.pod.isFinished else { return .leave }
        let sidecars = Array(self.pod.sidecars.reversed())
        let running = sidecars.filter { $0.life == .running && self.isHeard($0, memory) }
        // Nothing is added to a pod that ends. Its sidecar goes on as long as its app may serve.
        if self.pod.isBeingDeleted {
            let kept = running.lazy.compactMap { self.kept($0, memory, now) }.first
            if case .keep? = kept { return kept ?? .leave }
            return .leave
        }
        if let usable = running.first(where: { self.isUsable($0) }) {
            let kept = self.kept(usable, memory, now)
            if case .keep? = kept { return kept ?? .leave }
            if let wait = self.rest(memory, at: now) { return wait }
            if let kept { return kept }
            let isOurs = memory.injections.contains { $0.name == usable.name }
            let isAdmitted = memory.admits(self.key, to: usable.name, for: self.kind, at: now)
            return isOurs && isAdmitted ? .read(usable) : .admit(usable)
        }
        if let wait = self.rest(memory, at: now) { return wait }
        if let other = running.first { return .replace(other) }
        return self.lacking(sidecars, memory, at: now)
    }

    /// Whether the container can be the one that the API server says runs.
    private func isHeard(_ sidecar: PodSidecar, _ memory: PodMemory) -> Bool {
        guard !memory.lost.contains(sidecar.name) else { return false }
        guard let address = memory.address[sidecar.name], let now = self.pod.address else { return true }
        return address == now
    }

    private func isUsable(_ sidecar: PodSidecar) -> Bool {
        sidecar.serves(self.ports) && (!self.isImageWanted || sidecar.image == self.image)
    }

    private func kept(_ sidecar: PodSidecar, _ memory: PodMemory, _ now: PodMemory.Instant) -> Step? {
        guard let words = memory.words[sidecar.name], self.pod.address != nil,
            memory.admits(self.key, to: sidecar.name, for: self.kind, at: now)
        else { return nil }
        if self.isReachedByService, memory.places[sidecar.name]?[self.key] == nil { return .expose(sidecar, words) }
        return .keep(sidecar, words)
    }

    private func rest(_ memory: PodMemory, at now: PodMemory.Instant) -> Step? {
        if memory.isBusy { return .wait("it is being asked") }
        guard let failure = memory.failure, now < failure.until else { return nil }
        return failure.isFinal ? .fail(failure.problem) : .wait(failure.problem.what)
    }

    /// No sidecar runs.
    private func lacking(_ sidecars: [PodSidecar], _ memory: PodMemory, at now: PodMemory.Instant) -> Step {
        let trouble = SidecarTrouble(pod: self.pod, image: self.image)
        var failure: Problem?
        // One that was just added, and isn't in what was read of the pod yet.
        for injection in memory.injections.reversed() where !sidecars.contains(where: { $0.name == injection.name }) {
            guard !memory.lost.contains(injection.name), now - injection.at < PodMemory.startsWithin else {
                continue
            }
            return .wait("its container was just added")
        }
        for sidecar in sidecars where !memory.lost.contains(sidecar.name) {
            let added = memory.injections.first { $0.name == sidecar.name }?.at
            switch sidecar.life {
            case .running: continue
            case .waiting(let reason, let message):
                let stuck = trouble.waiting(reason, message)
                let patience = reason == "ContainerCreating" ? PodMemory.fetchedWithin : PodMemory.startsWithin
                if stuck == nil, now - (added ?? memory.waiting[sidecar.name] ?? now) < patience {
                    guard self.isUsable(sidecar) else { continue }
                    return .wait(reason.map(\.printable) ?? "its container doesn't run yet")
                }
                // It may come to life later, and ends by itself if nobody wants it then. Another one would be stuck as well.
                guard let added else { continue }
                let problem = stuck ?? trouble.late(reason, message, Int(patience.components.seconds))
                if now - added < PodMemory.stuckFor { return .fail(problem) }
                failure = failure ?? problem
            case .ended(let code, let reason, let message):
                if added != nil, code != 0 { failure = failure ?? trouble.ended(code, reason, message) }
            }
        }
        switch memory.mayInject(at: now) {
        case true?: return .inject
        case false?: return failure.map { .fail($0) } ?? .wait("the last one has just ended")
        case nil: return .fail(failure ?? trouble.tooMany(memory.recentInjections(at: now).count))
        }
    }
}
