import Environments
import InterceptModel
import InterceptProtocol
import NIOCore
import WorkspaceAPI
import WorkspaceAgent

typealias Progress = @DaemonLoop (Step) -> Void

/// Measures how long each step takes.
struct Stopwatch {
    private var last = NIODeadline.now()

    /// Seconds since the last lap.
    mutating func lap() -> Double {
        let now = NIODeadline.now()
        defer { self.last = now }
        return Double((now - self.last).nanoseconds / 1_000) / 1_000_000
    }
}

extension Intercept {
    /// Brings the intercept from nothing to Active. After an error, `rollBack` undoes everything.
    func begin(_ progress: Progress) async throws {
        var watch = Stopwatch()
        // Claim first: an environment that makes sidecars makes them for the holder of the service.
        self.mayBeClaimed = true
        let claim = self.claim
        if case .heldBy(let other) = try await claim.take(force: self.request.force) {
            self.mayBeClaimed = false
            throw self.busy(other, for: self.request)
        }
        try Task.checkCancellation()

        let locations = self.concerned(try await claim.sidecars())
        guard !locations.isEmpty else {
            throw Problem(
                .failed,
                "'\(self.service)' has no sidecar",
                "Look how the service is: kl env status"
            )
        }
        try self.checkWays(to: locations, self.request)
        progress(Step(.sidecarRunning, seconds: watch.lap()))
        try Task.checkCancellation()

        for location in locations where self.connect(location, takesOver: self.request.force) == nil {
            throw Problem(
                .failed,
                "the sidecar \(location.name) can't be dialled at \(location.tcp)",
                "Look at its log: kl env status"
            )
        }
        if await !self.changes.wait(within: Self.answersWithin, until: { self.isDecided }) {
            // An error here isn't the start's: the sidecars may answer all the same.
            let silent = self.replicas.filter { $0.state(self.generation) != .acknowledged }
            _ = try? await claim.reconcile(.unanswered(by: Set(silent.map(\.location.name))))
        }
        try await self.waitUntilAcknowledged()
        progress(Step(.tunnelUp(self.status.sidecars), seconds: watch.lap()))

        try await self.probe()
        self.tellMappings(progress, watch.lap())
        self.handle(.probed)
    }

    /// Checks that --carrier and --endpoint can be used with these sidecars.
    private func checkWays(to locations: [SidecarLocation], _ request: StartRequest) throws {
        if request.endpoint != nil, locations.count > 1 {
            throw Problem(
                .failed,
                "'\(self.service)' has \(locations.count) sidecars, and --endpoint is the address of one",
                "Leave it out."
            )
        }
        for location in locations {
            let relay = self.environment.relay(to: location)
            guard location.addresses(by: request.carrier, at: request.endpoint, through: relay).isEmpty else {
                continue
            }
            let message =
                switch request.carrier {
                case .exec:
                    "no command leads to the sidecar \(location.name) in this environment. Leave out --carrier exec."
                case .udp: "the sidecar \(location.name) takes no datagrams. Leave out --carrier udp."
                case .auto, .tcp:
                    "the sidecar \(location.name) can't be dialled at '\(location.tcp)'. Name its address by --endpoint."
                }
            throw Problem(.failed, message)
        }
    }

    private static func intercepted(_ what: String, holder: String, since: String?, _ more: String = "") -> Problem {
        let since = since.map { " since \(UTCTime(rfc3339: $0)?.shortLocal ?? $0)" } ?? ""
        return Problem(
            .busy,
            "\(what) is intercepted by \(holder)\(since)\(more)",
            "Ask them to stop it, or take it over with --force."
        )
    }

    private static func busy(_ service: String, holder: String, since: String?) -> Problem {
        Self.intercepted("'\(service)'", holder: holder, since: since)
    }

    private func busy(_ other: InterceptRecord, for request: StartRequest) -> Problem {
        let theirs = Set(other.ports.map(\.port))
        let ports = request.mappings.map(\.port).filter { theirs.contains($0) }.sorted().map { "\($0)" }
        let part = ports.isEmpty ? "" : "port\(ports.count == 1 ? "" : "s") \(ports.joined(separator: ", ")) of "
        var away = ""
        // A workspace that has claimed the ports a moment ago is about to come.
        let began = UTCTime(rfc3339: other.since)?.seconds ?? 0
        if other.isDiverting == false, UTCTime.now.seconds - began > Self.startingTakes {
            let seen = other.lastSeen.flatMap { UTCTime(rfc3339: $0) }.map { " (last seen \($0.shortLocal))" } ?? ""
            away = ", whose workspace can't be reached\(seen)"
        }
        return Self.intercepted(
            "\(part)'\(self.service)'",
            holder: other.holder.shown(to: self.identity.label),
            since: other.since,
            away
        )
    }

    /// † In seconds, from the claim until the sidecars serve the workspace.
    private static let startingTakes = 10

    /// † A sidecar answers within some tenths of a second.
    private static let answersWithin = TimeAmount.seconds(2)

    /// Each sidecar has acknowledged, or one has ended.
    private var isDecided: Bool {
        self.replicas.contains { $0.outcome != nil }
            || self.replicas.allSatisfy { $0.state(self.generation) == .acknowledged }
    }

    /// Waits until each sidecar has said that this generation is in force.
    func waitUntilAcknowledged() async throws {
        _ = await self.changes.wait { self.isDecided }
        try Task.checkCancellation()
        try self.checkReplicas()
        for replica in self.replicas {
            switch replica.outcome {
            case .failed(.busy(let holder, let since, _)):
                throw Self.busy(self.service, holder: holder ?? "someone else", since: since)
            case .failed(.takenOver): throw Self.busy(self.service, holder: "someone else", since: nil)
            case .failed(.cannotCopy(let reason)): throw self.cannotCopy(replica.location, reason)
            case .failed(let failure): throw Problem(.failed, "\(failure)".startingSmall)
            case .stopped, .ended:
                throw Problem(.failed, "the sidecar \(replica.location.name) ended the tunnel", "Try again.")
            case .ready, .none: break
            }
        }
    }

    /// A sidecar stays of the version that started it.
    private func cannotCopy(_ sidecar: SidecarLocation, _ reason: String) -> Problem {
        Problem(
            .failed,
            "the sidecar \(sidecar.name) copies nothing: \(reason)",
            self.environment.makesSidecars
                ? "If an earlier version of kl made it, it goes with the intercept that it was made for."
                : "If an earlier version of kl started it, end the environment (kl env down), and bring it up by this one."
        )
    }

    /// `allSatisfy` is true for an empty list, so having no sidecar left is checked separately.
    private func checkReplicas() throws {
        try self.checkLive()
        guard self.replicas.isEmpty else { return }
        throw Problem(
            .failed,
            "'\(self.service)' has no sidecar any more",
            "Look how the service is: kl env status"
        )
    }

    /// Throws if the intercept has meanwhile ended with its environment.
    func checkLive() throws {
        guard self.machine.phase == .stopping else { return }
        throw Problem(
            .failed,
            "the environment has ended, and the intercept of '\(self.service)' with it",
            "Start it again once it is up."
        )
    }

    /// Has each sidecar open a test connection through the tunnel to each mapped port. A local server that doesn't listen
    /// isn't a failure.
    func probe() async throws {
        try self.checkReplicas()
        var results: [(SidecarLocation, WorkspaceAgent.ProbeResult)] = []
        for replica in self.replicas {
            let location = replica.location
            replica.agent.probe { [weak self] result in
                results.append((location, result))
                self?.changes.happened()
            }
        }
        let count = self.replicas.count
        _ = await self.changes.wait { results.count >= count }
        try Task.checkCancellation()
        for (location, result) in results {
            switch result {
            case .unsupported: continue
            case .failed(let reason):
                throw Problem(.failed, "no connection came through the tunnel: \(reason)", "Try again.")
            case .answered(let answers):
                let silent = self.targets.mappings.first { mapping in
                    location.ownPort(of: mapping.port).map { answers[$0] == nil } ?? false
                }
                guard let silent else { continue }
                throw Problem(
                    .failed,
                    "no connection came through the tunnel to port \(silent.port)",
                    "Try again."
                )
            }
        }
    }

    private func tellMappings(_ progress: Progress, _ seconds: Double) {
        let missing = self.missingServers
        for mapping in self.request.mappings {
            progress(Step(.portMapped(mapping), seconds: seconds))
        }
        for mapping in self.request.mappings where missing.contains(mapping.port) {
            progress(Step(.localServerMissing(mapping)))
        }
    }

    /// Undoes a start that failed or was cancelled.
    func rollBack() async {
        self.onChange = nil
        self.onGone = nil
        // Stop first: the intercept may have been Active already, and must not look for the sidecars that are ended here.
        self.handle(.stop)
        for replica in self.replicas where replica.outcome == nil { replica.agent.shutDown() }
        _ = await self.changes.wait(within: .seconds(2)) {
            self.replicas.allSatisfy { $0.isWithdrawn || $0.outcome != nil }
        }
        if self.mayBeClaimed {
            await self.lookEnded()
            do {
                try await self.claim.release()
            } catch {
                self.log.warning("the claim can't be taken back: \(error)", metadata: ["service": "\(self.service)"])
            }
        }
        // Open connections get their drain time, for which this method doesn't wait.
        Task { _ = await self.changes.wait { self.replicas.allSatisfy { $0.outcome != nil } } }
    }

    // MARK: Start of a running intercept

    /// Starts a running intercept again, perhaps with other ports. After an error, the previous ports stay in force.
    func adjust(to request: StartRequest, targets: LocalTargets, _ progress: Progress) async throws {
        var watch = Stopwatch()
        let request = request.withImage(of: self.request)
        guard request.kind == self.request.kind else { throw Problem.held(self.service, as: self.request.kind) }
        if self.machine.phase != .active {
            self.lookAgain(in: .zero)
            let isBack = await self.changes.wait(within: .seconds(10)) { self.machine.phase == .active || !self.isLive }
            try Task.checkCancellation()
            try self.checkLive()
            guard isBack, self.isLive else {
                throw Problem(
                    .failed,
                    "'\(self.service)' is intercepted already, but not reached:"
                        + " \(self.machine.reason ?? "its sidecar doesn't answer")",
                    "Stop it first, or try again."
                )
            }
        }
        try self.checkWays(to: self.replicas.map(\.location), request)
        progress(Step(.sidecarRunning, seconds: watch.lap()))
        if !self.request.isSame(as: request) { try await self.raise(to: request, targets) }
        progress(Step(.tunnelUp(self.status.sidecars), seconds: watch.lap()))
        self.tellMappings(progress, watch.lap())
    }

    private func raise(to request: StartRequest, _ targets: LocalTargets) async throws {
        let before = (request: self.request, targets: self.targets)
        let claim = self.claim(for: request)
        if case .heldBy(let other) = try await claim.take(force: request.force) {
            throw self.busy(other, for: request)
        }
        self.handle(.raising)
        defer { self.handle(.raised) }
        do {
            self.ask(for: request, targets, takesOver: request.force)
            let generation = self.generation
            let isAnswered = await self.changes.wait(within: .seconds(10)) {
                self.replicas.contains { $0.refusal?.generation == generation || $0.outcome != nil }
                    || self.replicas.allSatisfy { $0.state(generation) == .acknowledged }
            }
            try Task.checkCancellation()
            if let refusal = self.replicas.lazy.compactMap(\.refusal).first(where: { $0.generation == generation }) {
                throw self.refused(refusal.failure)
            }
            try await self.waitUntilAcknowledgedOrFail(isAnswered)
            try await self.probe()
            try self.checkLive()
        } catch {
            self.ask(for: before.request, before.targets)
            // Even if the client has gone, wait until the previous ports are in force again.
            let generation = self.generation
            await Task {
                _ = await self.changes.wait(within: .seconds(5)) {
                    self.replicas.allSatisfy { $0.state(generation) == .acknowledged }
                }
                // An environment that has ended needs no record of it.
                if self.isLive { _ = try? await self.claim.take(force: false) }
            }.value
            throw error
        }
    }

    private func refused(_ failure: ControlMessage.Failure) -> Problem {
        if failure.code == .busy {
            return Self.busy(self.service, holder: failure.holder ?? "someone else", since: failure.since)
        }
        // Where sidecars are made for the intercept, a new one could have the ports; but that would end the open connections.
        let mend =
            self.environment.makesSidecars
            ? " To have others, stop it first: kl intercept stop \(self.service)" : ""
        return Problem(
            .failed,
            "the sidecar refused: \(failure.reason)",
            "The ports before stay in force.\(mend)"
        )
    }

    private func waitUntilAcknowledgedOrFail(_ isAnswered: Bool) async throws {
        guard isAnswered else {
            throw Problem(.failed, "a sidecar doesn't answer", "The ports before stay in force; try again.")
        }
        try await self.waitUntilAcknowledged()
    }

    func ask(for request: StartRequest, _ targets: LocalTargets, takesOver: Bool = false) {
        self.request = request
        self.targets = targets
        self.generation += 1
        // Replicas that serve none of the ports before may serve some of these.
        if self.replicas.contains(where: { $0.location.ports != nil }) { self.lookAgain(in: .zero) }
        for replica in self.replicas where replica.outcome == nil {
            let targets = targets.named(as: replica.location)
            guard !targets.mappings.isEmpty else {
                self.remove(replica)
                continue
            }
            replica.agent.update { configuration in
                self.apply(request, to: &configuration)
                configuration.targets = targets
                configuration.generation = self.generation
                configuration.takesOver = takesOver
                configuration.sidecar = self.addresses(of: replica.location)
            }
        }
        self.refresh()
    }
}

extension String {
    /// A sentence of the agent's, to follow "kl: ".
    var startingSmall: String { self.prefix(1).lowercased() + self.dropFirst() }
}
