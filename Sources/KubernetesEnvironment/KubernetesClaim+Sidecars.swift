import CommandText
import Environments
import HostSupport
import InterceptModel
import SidecarInterface

/// Has a sidecar in each pod, from a start to the pods that come later.
extension KubernetesClaim {
    /// † In milliseconds. `kubectl exec` takes some tenths of a second.
    private static let execPatience: Int64 = 8_000
    /// † A sidecar says where it listens some hundredths of a second after it was started.
    private static let speaksWithin = Duration.seconds(5)
    /// While a start waits, what the API server says is looked at as often.
    private static let pause = Duration.milliseconds(50)

    func plan(for pod: Pod, _ view: ServiceView) -> PodPlan {
        PodPlan(
            pod: pod,
            ports: view.ownPorts(of: self.ports, in: pod),
            key: self.key,
            kind: self.record.kind,
            image: self.image,
            isImageWanted: self.options.image != nil,
            isReachedByService: self.way != .podAddress
        )
    }

    func sidecars() async throws -> [SidecarLocation] {
        await self.model.follow(self.name)
        return try await self.environment.asking {
            let more = self.way == .loadBalancer ? Self.balancerWithin : .zero
            let limit = ContinuousClock.now + PodMemory.fetchedWithin + more + .seconds(1)
            while true {
                let view = try await self.environment.view(of: self.name, isFollowed: true)
                let awaited = view.awaited(for: self.ports)
                guard !awaited.isEmpty else { throw self.noPod(view) }
                let standing = await self.keeper.advance(self, view)
                if let holder = standing.holder {
                    throw Problem(
                        .busy,
                        "a port of the pods of '\(self.name)' is held by \(holder.holder.label.printable)",
                        "Ask them to stop it, or take it over with --force."
                    )
                }
                if let (pod, failure) = awaited.lazy.compactMap({ pod in standing.failures[pod.uid].map { (pod, $0) } })
                    .first
                {
                    throw await self.named(failure, pod)
                }
                let waiting = awaited.filter { standing.waiting[$0.uid] != nil }
                if waiting.isEmpty, !standing.kept.isEmpty { return standing.kept }
                guard ContinuousClock.now < limit else {
                    throw self.tooLate(waiting.first, waiting.first.flatMap { standing.waiting[$0.uid] })
                }
                try Task.checkCancellation()
                await self.keeper.pause(atMost: Self.pause)
            }
        }
    }

    /// With the node's architecture, where that is the reason, and the user may read nodes.
    private func named(_ failure: Problem, _ pod: Pod) async -> Problem {
        var trouble = SidecarTrouble(pod: pod, image: self.image)
        guard failure == trouble.wrongArchitecture, let name = pod.spec?.nodeName, KubernetesPlace.isSoundName(name)
        else {
            return failure
        }
        let node: NodeObject? = try? await self.client.get("/api/v1/nodes/\(name)")
        trouble.architecture = node?.metadata.labels?["kubernetes.io/arch"]
        return trouble.wrongArchitecture
    }

    private func noPod(_ view: ServiceView) -> Problem {
        let there = view.pods.filter { !$0.isBeingDeleted && !$0.isFinished }
        guard let pod = there.first else {
            return Problem(.failed, "'\(self.name)' has no pods", "Scale it up, then start again.")
        }
        let ports = self.ports.map { "\($0)" }.joined(separator: ", ")
        return Problem(
            .failed,
            view.candidates(for: self.ports).isEmpty
                ? "no pod of '\(self.name)' serves port \(ports)" : "no pod of '\(self.name)' is on a node yet",
            "Look at one: kubectl describe pod \(pod.name.shellQuoted)"
        )
    }

    private func tooLate(_ pod: Pod?, _ reason: String?) -> Problem {
        let place = pod.map { "pod \($0.name.printable)" } ?? "'\(self.name)'"
        return Problem(.failed, "\(place) has no sidecar in time: \(reason ?? "no reason is known")", "Try again.")
    }

    // MARK: Keeping

    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState {
        await self.model.follow(self.name)
        return try await self.environment.asking {
            let view: ServiceView
            do {
                view = try await self.environment.view(of: self.name, isFollowed: occasion != .doubtful)
            } catch let error as Problem where error.code == .noSuchService {
                return .sidecars([])
            }
            if let other = try await self.holderInstead(view) { return .lost(to: other) }
            switch occasion {
            case .doubtful: await self.doubt(view)
            case .unanswered(let names):
                await self.keeper.forgotFromBefore(self.key, view.pods.filter { names.contains($0.name) })
            case .routine, .incomplete: break
            }
            let standing = await self.keeper.advance(self, view)
            if let holder = standing.holder { return .lost(to: holder) }
            if standing.kept.isEmpty, standing.waiting.isEmpty, let failure = standing.failures.values.first {
                throw failure
            }
            let kept = standing.kept.sorted { $0.name < $1.name }
            // Only where clients are sent: other pods may still get theirs in time.
            let failure = view.awaited(for: self.ports).lazy.compactMap { standing.failures[$0.uid] }.first
            return failure.map { .partly(kept, $0) } ?? .sidecars(kept)
        }
    }

    /// Renews our entry now and then. An entry that is no more there was taken over, or went with the object that had it.
    private func holderInstead(_ view: ServiceView) async throws -> InterceptRecord? {
        guard !view.service.isPod else { return nil }
        var service = view.service
        // The sidecars know their holders, also those of pods that come.
        guard var list = try? service.holders else { return nil }
        var isThere = list.renew(self.key, at: .now)
        if !isThere {
            // What the watch has told may be older than what this process has just written.
            guard let now = try await self.model.service(self.name) else { return nil }
            service = now
            list = try now.holders
            isThere = list.renew(self.key, at: .now)
        }
        if !isThere, self.record.kind == .intercept {
            let other = list.entries.first { $0.kind == .intercept && !$0.ports.isDisjoint(with: self.ports) }
            // Anybody who may patch the Service can write an entry: a sidecar must know its holder. Before it does, our tunnel stays.
            if let other, await self.isKnown(other.key, in: view) { return other.record(of: self.name) }
        }
        guard await self.keeper.mayRenew(self.name, of: self.key) || !isThere else { return nil }
        if !isThere { list.put(HolderList.Entry(self.record, at: .now)) }
        do {
            // If it has changed meanwhile, the next look sees it.
            _ = try await self.write(list, to: service)
        } catch {
            // The sidecars know their holders all the same.
        }
        return nil
    }

    /// A sidecar forgets the key of a workspace that was away for long: then our key must be admitted again.
    private func doubt(_ view: ServiceView) async {
        // Somebody may have removed our Services.
        _ = await self.keeper.forgetPlaces(of: self.key, view.pods)
        for report in await self.environment.reports(view, atMost: .max) {
            guard let holders = report.words?.holders, !holders.contains(where: { $0.key == self.key }) else {
                continue
            }
            await self.keeper.forgot(self.key, report.pod)
        }
    }

    // MARK: Work on one pod

    func perform(_ step: PodPlan.Step, _ pod: Pod, _ view: ServiceView, asksFirst: Bool) async -> SidecarKeeper.Outcome
    {
        do {
            switch step {
            case .inject: return .injected(name: try await self.inject(into: pod, view, asksFirst: asksFirst))
            case .read(let sidecar): return try await self.read(sidecar, pod)
            case .expose(let sidecar, let words): return try await self.expose(sidecar, words, pod)
            case .admit(let sidecar): return await self.admit(at: sidecar, pod, view, force: false)
            case .replace(let sidecar): return try await self.end(sidecar, pod, view)
            case .keep, .leave, .wait, .fail: return .later(Problem(.failed, "nothing is to be done"), .seconds(1))
            }
        } catch let error as APIFailure {
            return self.outcome(of: error)
        } catch {
            return .later(error.problem, .seconds(1))
        }
    }

    private func outcome(of failure: APIFailure) -> SidecarKeeper.Outcome {
        if let refusal = SidecarTrouble.refusal(failure, self.model.place.namespace) { return .failed(refusal) }
        let problem = failure.problem(self.client.words)
        if problem.code == .login { return .failed(problem) }
        switch failure.code {
        // The pod or its container has gone, or doesn't run yet.
        case 404, 400: return .later(problem, .milliseconds(200))
        case 403, 422: return .failed(problem)
        default: return .later(problem, .seconds(1))
        }
    }

    private func admission(_ pod: Pod, _ view: ServiceView) -> Admission {
        let ports = view.ownPorts(of: self.ports, in: pod)
        return Admission(self.key, label: self.record.holder.label, holding: self.record.kind, ports)
    }

    private func inject(into pod: Pod, _ view: ServiceView, asksFirst: Bool) async throws -> String {
        var ports = view.allOwnPorts(in: pod).union(pod.declaredPorts)
        for service in await self.keeper.allServices(self.model) where pod.isSelected(by: service.selector) {
            ports.formUnion(ServiceView(service: service, pods: [pod]).allOwnPorts(in: pod))
        }
        // A sidecar has room for so many. Whoever may change Services can't push out those that are asked for.
        let wanted = view.ownPorts(of: self.ports, in: pod)
        let room = max(0, ServicePort.maxCount - wanted.count)
        ports = wanted.union(ports.subtracting(wanted).sorted().prefix(room))
        let hosts = (pod.status?.hostIPs ?? []).compactMap(\.ip) + [pod.status?.hostIP].compactMap(\.self)
        let injection = SidecarInjection(
            .init(
                ports: ports,
                peer: self.admission(pod, view),
                nodeAddresses: Set(hosts).filter { !$0.isEmpty }.sorted(),
                isIPv6: view.isIPv6,
                graceSeconds: pod.spec?.terminationGracePeriodSeconds.flatMap { Int(exactly: $0) }.flatMap {
                    $0 > 0 ? min($0, SidecarInjection.graceAtMost) : nil
                }
            ),
            image: self.image
        )
        let path = self.client.path("pods/\(pod.name)/ephemeralcontainers")
        if asksFirst {
            let _: Pod = try await self.client.patch(path, [("dryRun", "All")], .strategic, injection.patch)
        }
        let _: Pod = try await self.client.patch(path, [], .strategic, injection.patch)
        return injection.name
    }

    private func read(_ sidecar: PodSidecar, _ pod: Pod) async throws -> SidecarKeeper.Outcome {
        let words = try await self.environment.firstWords(of: sidecar, pod, within: Self.speaksWithin)
        guard let words else { return .later(Problem(.failed, "its sidecar says nothing yet"), .milliseconds(100)) }
        return .heard(words)
    }

    func admit(at sidecar: PodSidecar, _ pod: Pod, _ view: ServiceView, force: Bool) async -> SidecarKeeper.Outcome {
        let result: BoundedCommand.Result
        do {
            result = try await self.run(
                AdmissionExchange.admit(self.admission(pod, view), force: force),
                at: sidecar,
                pod
            )
        } catch let error as APIFailure {
            return ExecFailure(error.message).isContainerGone ? .lost : self.outcome(of: error)
        } catch {
            return .later(error.problem, .seconds(1))
        }
        let reason = ExecFailure(result)
        switch AdmissionExchange.answer(result, reason: reason.line) {
        case .admitted(let words): return .admitted(words)
        case .busy(let holder, let since):
            return .held(
                InterceptRecord(
                    service: self.name,
                    holder: Member(label: holder, publicKey: ""),
                    since: since,
                    ports: []
                )
            )
        case .refused(let why):
            return .failed(Problem(.failed, "the sidecar of pod \(pod.name.printable) refuses: \(why)"))
        case .absent(let why): return self.outcome(reason, why, pod)
        case .silent:
            return .later(Problem(.failed, "the sidecar of pod \(pod.name.printable) doesn't answer"), .seconds(1))
        }
    }

    private func outcome(_ failure: ExecFailure, _ why: String, _ pod: Pod) -> SidecarKeeper.Outcome {
        if failure.isContainerGone { return .lost }
        let problem = Problem(
            .failed,
            "no program can be run in pod \(pod.name.printable): \(why)",
            failure.isForbidden ? APIFailure.askForTheRight : nil
        )
        return failure.isForbidden ? .failed(problem) : .later(problem, .milliseconds(200))
    }

    /// Has it end, unless another workspace or a client needs it.
    private func end(_ sidecar: PodSidecar, _ pod: Pod, _ view: ServiceView) async throws -> SidecarKeeper.Outcome {
        let result = try await self.run(AdmissionExchange.endIfUnused(except: self.key), at: sidecar, pod)
        let reason = ExecFailure(result)
        switch AdmissionExchange.end(result, reason: reason.line) {
        case .ending: return .lost
        case .absent(let why): return self.outcome(reason, why, pod)
        case .silent:
            return .later(Problem(.failed, "the sidecar of pod \(pod.name.printable) doesn't answer"), .seconds(1))
        case .needed(let by):
            let lacking = view.ownPorts(of: self.ports, in: pod).subtracting(sidecar.ports).sorted().map { "\($0)" }
            let what =
                lacking.isEmpty
                ? "is of another image than --sidecar-image names"
                : "doesn't serve port \(lacking.joined(separator: ", "))"
            return .failed(
                Problem(
                    .failed,
                    "the sidecar of pod \(pod.name.printable) \(what), and isn't replaced while \(by)",
                    "Start again once they have stopped or ended; if you hold ports there, stop that first."
                )
            )
        }
    }

    func run(_ words: [String], at sidecar: PodSidecar, _ pod: Pod) async throws -> BoundedCommand.Result {
        try await self.client.exec(
            pod: pod.name,
            container: sidecar.name,
            [AdmissionExchange.program] + words,
            within: Self.execPatience
        )
    }
}

/// What is said where the program in the pod said nothing.
struct ExecFailure {
    let line: String
    /// The program in the container ran, and found no sidecar there.
    private var isWithoutSidecar = false

    init(_ result: BoundedCommand.Result) {
        self.init(result.errors)
        self.isWithoutSidecar = AdmissionExchange.saysNoSidecar(result)
    }

    init(_ errors: String) {
        let lines = errors.split(whereSeparator: \.isNewline).map { String($0).printable }
            .filter { !$0.isEmpty && !$0.hasPrefix("command terminated with exit code") }
        var last = lines.last ?? "no reason is given"
        for prefix in ["error: ", "Error from server: "] where last.hasPrefix(prefix) { last.removeFirst(prefix.count) }
        self.line = last
    }

    /// The kubelet knows no such container that runs; or the sidecar in it has ended.
    var isContainerGone: Bool {
        self.isWithoutSidecar
            || ["container not found", "No such container", "container is not created or running"].contains {
                self.line.contains($0)
            }
    }

    var isForbidden: Bool { self.line.contains("is forbidden") || self.line.contains("(Forbidden)") }
}
