import Environments
import InterceptModel
import NIOCore

/// Keeps track of the sidecars' locations: reads them again when a tunnel is lost, since the sidecar's address and key may
/// be new, and now and then to find sidecars that were added later.
extension Intercept {
    struct Look {
        fileprivate var timer: Scheduled<Void>?
        /// The timer's deadline.
        fileprivate var due: NIODeadline?
        fileprivate var isUnderWay = false
        fileprivate var isWantedAgain = false
        fileprivate var following: Task<Void, Never>?
        fileprivate var lastError: String?

        /// How many looks in a row have found the intercept incomplete.
        fileprivate var attempts = 0

        static let resting = TimeAmount.seconds(5)
        /// † A look may start a program that tries to log in. What the user does about it takes longer.
        static let blind = TimeAmount.seconds(10)
        /// † A sidecar that died is back after some hundredths of a second.
        private static let steps: [TimeAmount] = [
            .milliseconds(50), .milliseconds(100), .milliseconds(200), .milliseconds(400),
        ]

        /// † Five looks in a row have found the intercept incomplete. The environment may have missed a change, so it must
        /// read anew.
        fileprivate var isDoubtful: Bool { self.attempts > 0 && self.attempts.isMultiple(of: 5) }

        fileprivate var interval: TimeAmount {
            self.attempts <= Self.steps.count ? Self.steps[max(0, self.attempts - 1)] : .seconds(1)
        }

        mutating func stop() {
            self.timer?.cancel()
            self.timer = nil
            self.due = nil
            self.isWantedAgain = false
            self.following?.cancel()
            self.following = nil
        }
    }

    /// Looks at once whenever the environment reports a change.
    func followEnvironment() {
        guard self.look.following == nil, self.isLive else { return }
        let environment = self.environment
        self.look.following = Task { [weak self] in
            for await change in await environment.changes() {
                guard let self, !Task.isCancelled else { return }
                guard self.machine.phase != .pending else { continue }
                switch change {
                case .any: self.lookAgain(in: .zero)
                case .ending(let service, let sidecar): if service == self.service { self.giveUp(sidecar) }
                }
            }
        }
    }

    /// The replica's network is about to go, so open connections are reset while their clients can still be told.
    private func giveUp(_ sidecar: String) {
        guard self.isLive, let replica = self.replicas.first(where: { $0.location.name == sidecar }) else { return }
        self.log.info("the replica is being ended: its connections are reset", metadata: ["sidecar": "\(sidecar)"])
        self.remove(replica)
        self.refresh()
    }

    /// Waits for a running look, which could otherwise make a sidecar while the caller removes them.
    func lookEnded() async {
        self.look.stop()
        _ = await self.changes.wait(within: .seconds(30)) { !self.look.isUnderWay }
    }

    /// Looks after this delay at the latest: an earlier look that is already planned stays.
    func lookAgain(in delay: TimeAmount) {
        guard self.isLive else { return }
        if self.look.isUnderWay, delay == .zero {
            self.look.isWantedAgain = true
            return
        }
        let due = NIODeadline.now() + delay
        if let sooner = self.look.due, sooner <= due { return }
        self.look.timer?.cancel()
        self.look.due = due
        self.look.timer = DaemonLoop.eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] () -> Void in
            guard let self else { return }
            self.look.due = nil
            guard self.isLive, !self.look.isUnderWay else { return }
            self.look.isUnderWay = true
            Task { await self.lookNow() }
        }
    }

    func lookSeldom() {
        self.look.attempts = 0
        self.lookAgain(in: Look.resting)
    }

    private func lookNow() async {
        self.followEnvironment()
        let result = await self.reconcile()
        self.look.isUnderWay = false
        guard self.isLive else { return self.changes.happened() }
        switch result {
        case .success(.sidecars(let locations)), .success(.partly(let locations, _)):
            self.look.lastError = nil
            self.adopt(self.concerned(locations))
        case .success(.restarting): self.look.lastError = nil
        case .success(.lost(let other)): return self.handle(.takenOver(by: other.holder.label))
        case .success(.ended):
            self.log.notice(
                "the environment has ended, and the intercept with it",
                metadata: ["service": "\(self.service)"]
            )
            self.onGone?()
            return
        case .failure(let error):
            if self.look.lastError != "\(error)" {
                self.log.warning("the environment can't be read: \(error)", metadata: ["service": "\(self.service)"])
            }
            self.look.lastError = "\(error)"
        }
        self.refresh()
        let isBlind = self.tellBlindness(result)
        guard self.isLive else { return }
        let isResting = self.machine.phase == .active && !self.look.isWantedAgain
        self.look.isWantedAgain = false
        self.look.attempts = isResting ? 0 : self.look.attempts + 1
        self.lookAgain(in: isBlind ? Look.blind : isResting ? Look.resting : self.look.interval)
    }

    /// A tunnel goes on without the environment; but replicas that come aren't seen, or have no sidecar, and the user is the one to
    /// mend that.
    private func tellBlindness(_ result: Result<ClaimState, any Error>) -> Bool {
        let problem: Problem? =
            switch result {
            case .success(.partly(_, let problem)): problem
            case .failure(let error as Problem) where error.code == .login: error
            case .success, .failure: nil
            }
        self.handle(.blind(problem?.description))
        return problem != nil
    }

    private func reconcile() async -> Result<ClaimState, any Error> {
        let occasion: ReconcileOccasion =
            self.machine.phase == .active ? .routine : self.look.isDoubtful ? .doubtful : .incomplete
        do {
            return .success(try await self.claim.reconcile(occasion))
        } catch let error as Problem where error.code == .notUp && self.machine.phase != .active {
            return .success(.ended)
        } catch {
            return .failure(error)
        }
    }

    private func adopt(_ locations: [SidecarLocation]) {
        for replica in self.replicas where !locations.contains(where: { $0.name == replica.location.name }) {
            self.remove(replica)
        }
        var isRenamed = false
        for location in locations {
            if let replica = self.replicas.first(where: { $0.location.name == location.name }) {
                if replica.outcome == nil, replica.rename(as: location) { isRenamed = true }
                if replica.isAt(location), replica.outcome == nil {
                    replica.update(location)
                    continue
                }
                if replica.outcome == nil, replica.move(to: location, self.addresses(of: location)) { continue }
                self.log.info(
                    "dialling a sidecar anew",
                    metadata: ["sidecar": "\(location.name)", "address": "\(location.tcp)"]
                )
                self.remove(replica)
            }
            if self.connect(location) == nil {
                self.log.error("the sidecar's key or address can't be read", metadata: ["sidecar": "\(location.name)"])
            }
        }
        // The service's ports lead to others of its replicas now.
        if isRenamed { self.ask(for: self.request, self.targets) }
    }
}
