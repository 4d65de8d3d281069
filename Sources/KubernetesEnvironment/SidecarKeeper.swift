import Environments
import InterceptModel
import SidecarInterface

/// What this process knows of the sidecars in one namespace's pods, and the work on them that is under way: each pod has one piece of
/// work at a time.
actor SidecarKeeper {
    /// How a claim's pods are now.
    struct Standing: Sendable {
        var kept: [SidecarLocation] = []
        /// By the pods' UIDs.
        var waiting: [String: String] = [:]
        var failures: [String: Problem] = [:]
        /// Another workspace has one of the ports, as a sidecar says.
        var holder: InterceptRecord?
    }

    enum Outcome: Sendable {
        /// A container was added, whose sidecar accepts the claim's key from the start.
        case injected(name: String)
        case heard(SidecarWords)
        case admitted(SidecarWords)
        /// A Service leads to it.
        case exposed(TunnelService.Place)
        /// The container doesn't run.
        case lost
        /// Not yet; it is tried again after this time.
        case later(Problem, Duration)
        case held(InterceptRecord)
        case failed(Problem)
    }

    /// † Pieces of work at a time; each is a question to the API server, or waits for its turn to run a program in a pod.
    private static let workAtMost = 16
    /// † Pods that are remembered after they have gone.
    private static let podsAtMost = 4_096
    private static let retriedAfter = Duration.seconds(30)
    private static let loginTriedAfter = Duration.seconds(10)
    /// † How long an accepted dry run counts.
    private static let allowedFor = Duration.seconds(60)
    /// † A container that this process has added since may still come.
    private static let justAdded = Duration.seconds(5)
    private static let servicesCountFor = Duration.seconds(5)
    /// † A little longer than a program in a pod may take.
    private static let workEndsWithin = Duration.seconds(10)

    private var pods: [String: PodMemory] = [:]
    private var holders: [String: InterceptRecord] = [:]
    private var working = 0
    private var injecting = 0
    private var allowedAt: ContinuousClock.Instant?
    private var services: (at: ContinuousClock.Instant, task: Task<[ServiceObject], Never>)?
    private var renewed: [String: ContinuousClock.Instant] = [:]
    private var waiters: [CheckedContinuation<Void, Never>] = []

    // MARK: Work

    /// Begins what each pod needs next, and says how they are. Called again and again; each call takes up what the work of the last
    /// has come to.
    func advance(_ claim: KubernetesClaim, _ view: ServiceView) -> Standing {
        let now = ContinuousClock.now
        var standing = Standing()
        self.prune(keeping: view.pods)
        for pod in view.pods where !pod.uid.isEmpty {
            self.see(pod, at: now)
            let memory = self.pods[pod.uid] ?? PodMemory()
            let plan = claim.plan(for: pod, view)
            let step = plan.step(memory, at: now)
            switch step {
            case .leave: break
            case .keep(let sidecar, let words):
                self.pods[pod.uid]?.isBack(claim.key, at: sidecar.name)
                var location = view.location(of: pod, at: (sidecar.name, words), for: claim.ports)
                if let place = plan.isReachedByService ? memory.places[sidecar.name]?[claim.key] : nil {
                    location.tcp = place.tcp
                    location.udp = words.datagramPort == nil ? nil : place.udp
                }
                standing.kept.append(location)
            case .wait(let why): standing.waiting[pod.uid] = why
            case .fail(let problem):
                standing.failures[pod.uid] = problem
                if problem.code == .busy { standing.holder = standing.holder ?? self.holders[pod.uid] }
            case .read, .admit, .expose, .replace, .inject:
                standing.waiting[pod.uid] = "it is its turn soon"
                self.begin(step, pod, claim, view, at: now)
            }
        }
        return standing
    }

    private func begin(
        _ step: PodPlan.Step,
        _ pod: Pod,
        _ claim: KubernetesClaim,
        _ view: ServiceView,
        at now: ContinuousClock.Instant
    ) {
        guard self.working < Self.workAtMost else { return }
        // Until one was allowed, one at a time: where none is, nothing may be left behind in the others.
        let isAllowed = self.allowedAt.map { now - $0 < Self.allowedFor } ?? false
        if step == .inject {
            guard isAllowed || self.injecting == 0 else { return }
            self.injecting += 1
        }
        self.working += 1
        self.pods[pod.uid, default: PodMemory()].isBusy = true
        switch step {
        case .admit, .inject: self.pods[pod.uid]?.keyToCome = claim.key
        case .read, .expose, .replace, .keep, .leave, .wait, .fail: break
        }
        Task {
            let outcome = await claim.perform(step, pod, view, asksFirst: !isAllowed)
            self.done(step, outcome, pod, claim)
        }
    }

    private func done(_ step: PodPlan.Step, _ outcome: Outcome, _ pod: Pod, _ claim: KubernetesClaim) {
        let now = ContinuousClock.now
        self.working -= 1
        var memory = self.pods[pod.uid] ?? PodMemory()
        memory.isBusy = false
        memory.keyToCome = nil
        memory.failure = nil
        if step == .inject {
            self.injecting -= 1
            if case .injected = outcome { self.allowedAt = now }
        }
        switch outcome {
        case .injected(let name):
            memory.injections = memory.recentInjections(at: now) + [.init(name: name, at: now)]
            memory.admits[name, default: [:]][claim.key] = .init(claim.record.kind)
            memory.address[name] = pod.address
        case .heard(let words):
            if let name = step.sidecar { self.heard(words, name, pod, &memory) }
        case .admitted(let words):
            guard let name = step.sidecar else { break }
            self.heard(words, name, pod, &memory)
            memory.admits[name, default: [:]][claim.key] = .init(claim.record.kind)
        case .exposed(let place): if let name = step.sidecar { memory.places[name, default: [:]][claim.key] = place }
        case .lost: if let name = step.sidecar { memory.lost.insert(name) }
        case .later(let problem, let pause):
            memory.failure = .init(problem: problem, until: now + pause, isFinal: false)
        case .failed(let problem):
            // The user may log in at any moment.
            let pause = problem.code == .login ? Self.loginTriedAfter : Self.retriedAfter
            memory.failure = .init(problem: problem, until: now + pause)
        case .held(let other):
            let problem = Problem(.busy, "'\(other.service)' is intercepted by \(other.holder.label)")
            memory.failure = .init(problem: problem, until: now + .seconds(1))
            self.holders[pod.uid] = other
        }
        self.pods[pod.uid] = memory
        self.changed(claim)
    }

    private func heard(_ words: SidecarWords, _ name: String, _ pod: Pod, _ memory: inout PodMemory) {
        memory.words[name] = words
        if memory.address[name] == nil { memory.address[name] = pod.address }
    }

    private func see(_ pod: Pod, at now: ContinuousClock.Instant) {
        let sidecars = pod.sidecars
        guard !sidecars.isEmpty || self.pods[pod.uid] != nil else { return }
        var memory = self.pods[pod.uid] ?? PodMemory()
        for sidecar in sidecars {
            if case .waiting = sidecar.life, memory.waiting[sidecar.name] == nil { memory.waiting[sidecar.name] = now }
            if memory.address[sidecar.name] == nil, memory.words[sidecar.name] != nil {
                memory.address[sidecar.name] = pod.address
            }
        }
        self.pods[pod.uid] = memory
    }

    private func prune(keeping pods: [Pod]) {
        guard self.pods.count > Self.podsAtMost else { return }
        let present = Set(pods.map(\.uid))
        self.pods = self.pods.filter { present.contains($0.key) || $0.value.isBusy }
        self.holders = self.holders.filter { present.contains($0.key) }
    }

    // MARK: What is known

    func memory(of pod: Pod) -> PodMemory { self.pods[pod.uid] ?? PodMemory() }

    /// A sidecar said this of itself, asked by something else than `advance`.
    func heard(
        _ words: SidecarWords,
        from name: String,
        in pod: Pod,
        admits key: String? = nil,
        for kind: HoldingKind = .intercept
    ) {
        var memory = self.pods[pod.uid] ?? PodMemory()
        self.heard(words, name, pod, &memory)
        if let key { memory.admits[name, default: [:]][key] = .init(kind) }
        self.pods[pod.uid] = memory
    }

    /// The user tries again: what failed before doesn't count any more.
    func beginAnew(_ pods: [Pod]) {
        let now = ContinuousClock.now
        for pod in pods {
            guard var memory = self.pods[pod.uid] else { continue }
            memory.failure = nil
            let running = Set(pod.sidecars.filter { $0.life == .running }.map(\.name))
            for injection in memory.injections
            where now - injection.at > Self.justAdded && !running.contains(injection.name) {
                memory.lost.insert(injection.name)
            }
            self.pods[pod.uid] = memory
        }
    }

    /// Waits for the work by which sidecars come to accept the key: a start that was given up may have begun it, and what it comes to
    /// must not be heard after the key has left.
    func hasCome(_ key: String, _ pods: [Pod]) async {
        let limit = ContinuousClock.now + Self.workEndsWithin
        while ContinuousClock.now < limit, pods.contains(where: { self.pods[$0.uid]?.keyToCome == key }) {
            await self.pause(atMost: .milliseconds(200))
        }
    }

    /// The key's workspace needs the sidecars no more, which go on accepting it for a while.
    func left(_ key: String, _ pods: [Pod]) {
        let now = ContinuousClock.now
        for pod in pods { self.pods[pod.uid]?.left(key, pod.sidecars, at: now) }
    }

    /// The pod's sidecars don't accept the key any more.
    func forgot(_ key: String, _ pod: Pod) {
        guard let names = self.pods[pod.uid]?.admits.keys else { return }
        for name in names { self.pods[pod.uid]?.admits[name]?[key] = nil }
    }

    /// The same where the workspace has come back without asking the sidecars whether they still accept it.
    func forgotFromBefore(_ key: String, _ pods: [Pod]) {
        for pod in pods
        where self.pods[pod.uid]?.admits.values.contains(where: { $0[key]?.isFromBefore ?? false }) ?? false {
            self.forgot(key, pod)
        }
    }

    /// - Returns: whether there were some.
    func forgetPlaces(of key: String, _ pods: [Pod]) -> Bool {
        var isAny = false
        for pod in pods {
            guard let names = self.pods[pod.uid]?.places.keys else { continue }
            for name in names where self.pods[pod.uid]?.places[name]?.removeValue(forKey: key) != nil { isAny = true }
        }
        return isAny
    }

    /// Whether the claim's entry is to be written anew; only the first to ask in a minute is told so.
    func mayRenew(_ service: String, of key: String) -> Bool {
        let now = ContinuousClock.now
        let id = "\(service)/\(key)"
        if let last = self.renewed[id], now - last < .milliseconds(HolderList.renewedAfter) { return false }
        self.renewed[id] = now
        return true
    }

    func didWrite(_ service: String, of key: String) { self.renewed["\(service)/\(key)"] = .now }

    func forgetRenewal(_ service: String, of key: String) { self.renewed["\(service)/\(key)"] = nil }

    /// The namespace's Services. None where the user may not list them.
    ///
    /// - Parameter isNow: they are read now, for somebody who has just asked for something.
    func allServices(_ model: KubernetesModel, isNow: Bool = false) async -> [ServiceObject] {
        if !isNow, let known = self.services, ContinuousClock.now - known.at < Self.servicesCountFor {
            return await known.task.value
        }
        let task = Task { (try? await model.services()) ?? [] }
        self.services = (.now, task)
        return await task.value
    }

    // MARK: Waiting

    private func changed(_ claim: KubernetesClaim) {
        self.wake()
        let model = claim.model
        Task { await model.tell(.any) }
    }

    private func wake() {
        for waiter in self.waiters { waiter.resume() }
        self.waiters = []
    }

    /// Until some work is done, or this time is over.
    func pause(atMost time: Duration) async {
        let timer = Task {
            try? await Task.sleep(for: time)
            self.wake()
        }
        await withCheckedContinuation { self.waiters.append($0) }
        timer.cancel()
    }
}

extension PodPlan.Step {
    fileprivate var sidecar: String? {
        switch self {
        case .keep(let sidecar, _), .expose(let sidecar, _), .read(let sidecar), .admit(let sidecar),
            .replace(let sidecar):
            sidecar.name
        case .leave, .inject, .wait, .fail: nil
        }
    }
}
