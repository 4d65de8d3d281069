import CommandText
import Environments
import InterceptModel
import SidecarInterface

/// Writes into a Service's annotation that a workspace holds ports of it, and has a sidecar in each of its pods.
///
/// The unit of conflict is the pod's port, since that is what a sidecar diverts: two Services may lead to the same one.
struct KubernetesClaim: ServiceClaim {
    let environment: KubernetesEnvironment
    var record: InterceptRecord
    let options: SidecarOptions

    var model: KubernetesModel { self.environment.model }
    var client: KubernetesClient { self.model.client }
    var keeper: SidecarKeeper { self.model.sidecars }
    var key: String { self.record.holder.publicKey }
    var name: String { self.record.service }
    var ports: [ServicePort] { self.record.ports.map(\.port) }
    var image: String { self.options.image ?? self.environment.place.image ?? PodSidecar.defaultImage }

    /// Another one's change of the Service comes between now and then.
    private static let tries = 20

    init(_ environment: KubernetesEnvironment, _ record: InterceptRecord, _ options: SidecarOptions) {
        self.environment = environment
        self.record = record
        self.options = options
    }

    // MARK: Taking

    func take(force: Bool) async throws -> ClaimResult {
        // Ahead of `sidecars()`, which has to wait for it.
        await self.model.follow(self.name)
        return try await self.environment.asking {
            let view = try await self.environment.view(of: self.name)
            if let refusal = KubernetesServices.service(view.service, view.pods).refusal {
                throw Problem(.failed, refusal)
            }
            try self.checkPorts(view)
            let result = try await self.record(view, force: force)
            if case .heldBy = result {
                // Nobody will give back what wasn't claimed.
                await self.model.unfollow(self.name)
                return result
            }
            await self.keeper.beginAnew(view.pods)
            if force { await self.takeOver(view) }
            return result
        }
    }

    private func checkPorts(_ view: ServiceView) throws(Problem) {
        for port in self.ports where view.servicePort(port) == nil {
            let all = view.allPorts.map { "\($0)" }.joined(separator: ", ")
            throw Problem(
                .failed,
                "Service '\(self.name)' has no port \(port)",
                all.isEmpty ? nil : "It has \(all)."
            )
        }
    }

    /// Writes the claim down, unless another workspace has one of the ports.
    private func record(_ first: ServiceView, force: Bool) async throws -> ClaimResult {
        var view = first
        for _ in 0..<Self.tries {
            let now = UTCTime.now
            let others = try await self.others(view)
            if let own = try view.service.holders.entry(of: self.key), own.kind != self.record.kind {
                throw Problem.held(self.name, as: own.kind)
            }
            var list = try view.service.holders
            if self.record.kind == .mirror {
                let mirrors = list.entries.filter { $0.kind == .mirror && $0.key != self.key }
                guard mirrors.count < HoldingKind.mirrorsAtMost else { throw Problem.tooManyMirrors(of: self.name) }
            }
            var taken: InterceptRecord?
            for other in others {
                let isGone = other.entry.isStale(at: now) ? try await self.isGone(other.entry.key, from: view) : false
                guard isGone || force else {
                    guard other.service == self.name else { throw self.hasPods(of: other) }
                    return .heldBy(other.entry.record(of: other.service))
                }
                if !isGone { taken = taken ?? other.entry.record(of: other.service) }
                if other.service == self.name { list.take(Set(self.ports), from: other.entry.key) }
            }
            if view.service.isPod, !force, let other = await self.holderByReport(view) { return .heldBy(other) }
            list.put(HolderList.Entry(self.record, at: now))
            if try await self.write(list, to: view.service) {
                await self.keeper.didWrite(self.name, of: self.key)
                return taken.map { .takenOver(from: $0) } ?? .claimed
            }
            view = try await self.environment.view(of: self.name)
        }
        throw self.environment.contended(self.name)
    }

    private func holderByReport(_ view: ServiceView) async -> InterceptRecord? {
        let reports = await self.environment.reports(view, atMost: .max)
        return KubernetesRecords(view, HolderList(), reports).all.first { $0.conflicts(with: self.record) }
    }

    /// - Returns: false if the Service has changed since it was read.
    func write(_ list: HolderList, to service: ServiceObject) async throws -> Bool {
        guard !service.isPod else { return true }
        let patch = HoldersPatch(resourceVersion: service.metadata.resourceVersion, text: try list.text)
        do {
            let _: ServiceObject = try await self.client.patch(
                self.client.path("services/\(service.name)"),
                [],
                .merge,
                patch
            )
            return true
        } catch let error as APIFailure where error.code == 409 {
            try await Task.sleep(for: .milliseconds(Int64.random(in: 5...50)))
            return false
        }
    }

    private struct Other {
        var service: String
        var entry: HolderList.Entry
    }

    /// Intercepts of other keys, of this Service and of others that lead to the same ports of the same pods. This workspace's own at
    /// other Services are among them, since it has a key for each.
    private func others(_ view: ServiceView) async throws -> [Other] {
        var found: [Other] = []
        let isIntercept = self.record.kind == .intercept
        for entry in try view.service.holders.entries where entry.key != self.key && isIntercept {
            guard entry.kind == .intercept,
                !entry.ports.isDisjoint(with: self.ports) || self.meets(entry, of: view, view)
            else { continue }
            found.append(Other(service: self.name, entry: entry))
        }
        for service in await self.keeper.allServices(self.model, isNow: true) where service.name != self.name {
            guard let entries = try? service.holders.entries, !entries.isEmpty else { continue }
            let pods = view.pods.filter { $0.isSelected(by: service.selector) }
            guard !pods.isEmpty else { continue }
            let theirs = ServiceView(service: service, pods: pods)
            for entry in entries {
                guard isIntercept, entry.kind == .intercept, self.meets(entry, of: theirs, view) else { continue }
                found.append(Other(service: service.name, entry: entry))
            }
        }
        return found
    }

    /// Whether some pod has a port that both claims lead to.
    private func meets(_ entry: HolderList.Entry, of theirs: ServiceView, _ view: ServiceView) -> Bool {
        theirs.pods.contains { pod in
            !theirs.ownPorts(of: entry.ports, in: pod).isDisjoint(with: view.ownPorts(of: self.ports, in: pod))
        }
    }

    private func hasPods(of other: Other) -> Problem {
        Problem(
            .busy,
            "'\(self.name)' leads to the same port of the same pods as '\(other.service.printable)', which is intercepted by"
                + " \(other.entry.label)",
            (other.entry.label == self.record.holder.label
                ? "If that is you, stop it first: kl intercept stop \(other.service.shellQuoted). Otherwise ask"
                : "Ask")
                + " them to stop it, or take it over with --force."
        )
    }

    /// Whether no sidecar in these pods has heard of the key. What can't be asked may have.
    private func isGone(_ key: String, from view: ServiceView) async throws -> Bool {
        let reports = await self.environment.reports(view, atMost: .max)
        return reports.allSatisfy { $0.words.map { !($0.holders ?? []).contains { $0.key == key } } ?? false }
    }

    /// Whether a sidecar in these pods says that the key holds ports.
    func isKnown(_ key: String, in view: ServiceView) async -> Bool {
        let reports = await self.environment.reports(view, atMost: .max)
        return reports.contains { ($0.words?.holders ?? []).contains { $0.key == key } }
    }

    /// At the sidecars that run already. The others get the key when they are made.
    private func takeOver(_ view: ServiceView) async {
        await withTaskGroup { group in
            for pod in view.candidates(for: self.ports) {
                guard let sidecar = pod.sidecars.last(where: { $0.life == .running }) else { continue }
                group.addTask {
                    guard case .admitted(let words) = await self.admit(at: sidecar, pod, view, force: true) else {
                        return
                    }
                    await self.keeper.heard(
                        words,
                        from: sidecar.name,
                        in: pod,
                        admits: self.key,
                        for: self.record.kind
                    )
                }
            }
        }
    }

    // MARK: Giving back

    func release() async throws {
        await self.model.unfollow(self.name)
        try await self.environment.asking {
            guard let view = try await self.viewIfThere() else { return }
            await self.keeper.hasCome(self.key, view.pods)
            await self.keeper.left(self.key, view.pods)
            await self.keeper.forgetRenewal(self.name, of: self.key)
            try await self.removeEntry(view)
            await self.leave(view)
            await self.removeWays(to: view.pods)
        }
    }

    private func viewIfThere() async throws -> ServiceView? {
        do { return try await self.environment.view(of: self.name) } catch let error as Problem
            where error.code == .noSuchService
        {
            return nil
        }
    }

    private func removeEntry(_ first: ServiceView) async throws {
        var service = first.service
        for _ in 0..<Self.tries {
            var list = try service.holders
            guard list.entry(of: self.key) != nil else { return }
            list.remove(self.key)
            if try await self.write(list, to: service) { return }
            guard let next = try await self.model.service(self.name) else { return }
            service = next
        }
        throw self.environment.contended(self.name)
    }

    /// A stop has told the sidecars by the tunnel. One that still keeps ports for the key, since a start had come to nothing, is told
    /// here; it would forget the key by itself, but later.
    private func leave(_ view: ServiceView) async {
        let reports = await self.environment.reports(view, atMost: .max)
        await withTaskGroup { group in
            for report in reports where report.words?.holders?.contains(where: { $0.key == self.key }) ?? false {
                group.addTask {
                    await self.keeper.forgot(self.key, report.pod)
                    _ = try? await self.run(AdmissionExchange.leave(self.key), at: report.sidecar, report.pod)
                }
            }
        }
    }

    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] {
        try await self.environment.asking {
            guard let view = try await self.viewIfThere() else { return sidecars }
            var gone: [SidecarLocation] = []
            for sidecar in sidecars {
                guard let pod = view.pods.first(where: { $0.name == sidecar.name }) else {
                    gone.append(sidecar)
                    continue
                }
                let memory = await self.keeper.memory(of: pod)
                let names = memory.words.filter { $0.value.publicKey == sidecar.publicKey }.keys
                let isThere = pod.sidecars.contains { one in
                    one.life == .running && !memory.lost.contains(one.name)
                        && (names.isEmpty || names.contains(one.name))
                }
                if !isThere { gone.append(sidecar) }
            }
            return gone
        }
    }
}
