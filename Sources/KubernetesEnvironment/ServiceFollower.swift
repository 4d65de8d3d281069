/// Watches one Service, and the pods that its selector matches; or one pod, for a name such as `pod/api-0`.
actor ServiceFollower {
    private let client: KubernetesClient
    private let name: String
    private let onChange: @Sendable () async -> Void
    private var tasks: (service: Task<Void, Never>?, pods: Task<Void, Never>?)
    /// The Service as it was told last. Nil: nothing has been told yet.
    private var service: ObjectWatch<ServiceObject>.Snapshot?
    private var pods: ObjectWatch<Pod>.Snapshot?
    /// What `pods` are selected by.
    private var selector: [String: String] = [:]
    /// Tells a watch of pods from those before it, which may still have something to tell.
    private var round = 0
    private var waiters: [CheckedContinuation<Void, Never>] = []

    enum Answer: Sendable {
        /// Nil: there is no such Service.
        case known((service: ServiceObject, pods: [Pod])?)
        /// The watches aren't in step; with the reason, if they have one.
        case unknown(APIFailure?)
    }

    /// - Parameter onChange: called after each change of what is watched.
    init(_ name: String, _ client: KubernetesClient, onChange: @escaping @Sendable () async -> Void) {
        self.name = name
        self.client = client
        self.onChange = onChange
    }

    func start() {
        if let pod = ServiceObject.podName(self.name) {
            self.watchPods([("fieldSelector", "metadata.name=\(pod)")])
        } else {
            let watch = ObjectWatch<ServiceObject>(self.client, [("fieldSelector", "metadata.name=\(self.name)")]) {
                [weak self] in await self?.heard($0)
            }
            self.tasks.service = Task { await watch.run() }
        }
    }

    func stop() {
        self.tasks.service?.cancel()
        self.tasks.pods?.cancel()
        self.resumeWaiters()
    }

    private func watchPods(_ query: [(String, String)]) {
        self.round += 1
        let round = self.round
        let watch = ObjectWatch<Pod>(self.client, query) { [weak self] in await self?.heard($0, round) }
        self.pods = nil
        self.tasks.pods?.cancel()
        self.tasks.pods = Task { await watch.run() }
    }

    private func heard(_ snapshot: ObjectWatch<ServiceObject>.Snapshot) async {
        self.service = snapshot
        if let objects = snapshot.objects {
            let selector = objects.first { $0.name == self.name }?.selector ?? [:]
            if selector != self.selector {
                self.selector = selector
                self.watchSelected()
            }
        }
        await self.changed()
    }

    private func watchSelected() {
        guard self.selector.isEmpty else {
            return self.watchPods([("labelSelector", KubernetesModel.text(of: self.selector))])
        }
        self.round += 1
        self.tasks.pods?.cancel()
        self.tasks.pods = nil
        self.pods = nil
    }

    private func heard(_ snapshot: ObjectWatch<Pod>.Snapshot, _ round: Int) async {
        guard round == self.round else { return }
        self.pods = snapshot
        await self.changed()
    }

    private func changed() async {
        self.resumeWaiters()
        await self.onChange()
    }

    private func resumeWaiters() {
        let waiters = self.waiters
        self.waiters = []
        for waiter in waiters { waiter.resume() }
    }

    // MARK: Answers

    /// What the watches know; while they haven't told anything yet, it waits for them.
    func answer(within time: Duration) async -> Answer {
        let until = ContinuousClock.now + time
        let alarm = Task {
            try await Task.sleep(until: until, clock: .continuous)
            self.resumeWaiters()
        }
        defer { alarm.cancel() }
        while self.isBeginning, ContinuousClock.now < until, !Task.isCancelled {
            await withCheckedContinuation { self.waiters.append($0) }
        }
        return self.answerNow
    }

    private var isPod: Bool { ServiceObject.podName(self.name) != nil }

    private var isBeginning: Bool {
        guard !self.isPod else { return self.pods == nil }
        guard let service else { return true }
        return service.objects != nil && !self.selector.isEmpty && self.pods == nil
    }

    private var answerNow: Answer {
        if self.isPod {
            guard let pods = self.pods?.objects else { return .unknown(self.pods?.failure) }
            return .known(pods.first.map { (ServiceObject(of: $0), [$0]) })
        }
        guard let objects = self.service?.objects else { return .unknown(self.service?.failure) }
        guard let object = objects.first(where: { $0.name == self.name }) else { return .known(nil) }
        guard !self.selector.isEmpty else { return .known((object, [])) }
        guard let pods = self.pods?.objects else { return .unknown(self.pods?.failure) }
        return .known((object, pods))
    }
}
