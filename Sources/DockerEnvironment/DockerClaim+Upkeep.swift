import Environments
import InterceptModel
import SidecarInterface

/// Keeps a claim in force, and gives it back.
extension DockerClaim {
    /// Who has one of our ports at the other replicas. While the first one's sidecar is new, since that replica was restarted or
    /// the sidecar ended, it knows none of the holders, and can't decide who has a port.
    func holderElsewhere(of service: DockerService, _ all: [DockerSidecar]) async throws -> InterceptRecord? {
        guard self.record.kind == .intercept else { return nil }
        let others = all.filter { sidecar in
            sidecar.admits && sidecar.isRunning
                && service.usable.dropFirst().contains { self.standing(of: sidecar, for: $0) == .useful }
        }
        let ports = Set(self.record.ports.map(\.port))
        return try await self.environment.records(of: service.name, others, service).first { other in
            other.holder.publicKey != self.key && other.kind == .intercept
                && !ports.isDisjoint(with: other.ports.map(\.port))
        }
    }

    /// Leaves the sidecar that was just made at the first replica, if meanwhile another one says that a port is held.
    func giveWay(at name: String, of service: DockerService) async throws -> InterceptRecord? {
        let all = try await self.model.project(.now).sidecars(of: service.name)
        guard let other = try await self.holderElsewhere(of: service, all) else { return nil }
        for sidecar in all where sidecar.name == name {
            await self.model.left(self.key, sidecar)
            _ = try await self.admission.leave(sidecar)
        }
        return other
    }

    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState {
        if occasion == .doubtful { await self.model.touch() }
        var project = try await self.model.project(.followed)
        let name = self.record.service
        if let first = project.record(of: name), !first.admits, first.holder.publicKey != self.key {
            return .lost(to: self.record(of: first))
        }
        guard let service = project.service(name) else { return .sidecars([]) }
        // A sidecar whose replica has gone, or is in another network namespace now, serves no workspace. The sidecar of a
        // paused replica stays, since the replica comes back unchanged.
        let present = service.replicas.filter { $0.isUsable || $0.container.status == "paused" }
        let shared = project.sidecars(of: name).filter { $0.admits || $0.holder.publicKey == self.key }
        let useless = shared.filter { sidecar in
            sidecar.isNamedAsMade
                && !present.contains { replica in
                    let standing = self.standing(of: sidecar, for: replica)
                    return standing == .coming
                        || standing == .useful && (sidecar.admits || self.serves(sidecar))
                }
        }
        try await self.environment.remove(useless)
        if !useless.isEmpty, let known = await self.model.known { project = known }
        do {
            if project.record(of: name) == nil {
                // An earlier version of kl has renamed the sidecar: another workspace is taking the service over right now.
                let renamed = shared.filter { !$0.isNamedAsMade && $0.isRunning }
                if !renamed.isEmpty {
                    return .sidecars(try await self.environment.locations(of: renamed, service))
                }
                guard !service.usable.isEmpty else { return .sidecars([]) }
                if case .heldBy(let other) = try await self.take(force: false) { return .lost(to: other) }
                if let known = await self.model.known { project = known }
            }
            if occasion == .doubtful { try await self.doubt(shared) }
            // A running sidecar keeps its image: replacing it would end its open connections.
            return .sidecars(try await self.sidecarsForAll(in: project, of: .any))
        } catch let held as Held {
            return .lost(to: held.record)
        } catch {
            // Return the sidecars that run; the missing ones are tried again later.
            let locations = try await self.locations()
            guard !locations.isEmpty else { throw error }
            return .sidecars(locations)
        }
    }

    /// A sidecar forgets the key of a workspace that was away for long. Then our key must be admitted again.
    private func doubt(_ sidecars: [DockerSidecar]) async throws {
        for sidecar in sidecars where sidecar.admits && sidecar.isRunning {
            let holders = try await self.model.lastWords(of: sidecar)?.holders
            guard holders?.contains(where: { $0.key == self.key }) != true else { continue }
            await self.model.left(self.key, sidecar)
        }
    }

    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] {
        let there = try await self.environment.sidecars(of: self.record.service)
        return sidecars.filter { sidecar in !there.contains { $0.publicKey == sidecar.publicKey } }
    }

    // MARK: The end

    /// † In milliseconds. A sidecar that passes no connection on ends as soon as the last key has left.
    private static let endsWithin: Int64 = 1_000

    func release() async throws {
        let project = try await self.model.project(.now)
        let all = project.sidecars(of: self.record.service)
        try await self.removeEarlier(all.filter { !$0.admits && $0.holder.publicKey == self.key })
        // A sidecar that this workspace began to make, and paused ones, which serve no workspace.
        try await self.environment.remove(
            all.filter {
                $0.admits && ($0.status == "paused" || $0.status == "created" && $0.holder.publicKey == self.key)
            }
        )
        var ending: [DockerSidecar] = []
        var silent: [DockerSidecar] = []
        let shared = all.filter { $0.admits && $0.isRunning }
        try await withThrowingTaskGroup { group in
            for sidecar in shared {
                await self.model.left(self.key, sidecar)
                group.addTask { (sidecar, try await self.admission.leave(sidecar)) }
            }
            for try await (sidecar, leave) in group {
                switch leave {
                case .wasLast: ending.append(sidecar)
                case .silent: silent.append(sidecar)
                case .othersStay, .absent: break
                }
            }
        }
        try await self.waitForEnd(of: ending)
        for sidecar in silent {
            // Only if, by its last report, no other key holds ports there. Without a report others may.
            guard let holders = try await self.model.lastWords(of: sidecar)?.holders,
                holders.allSatisfy({ $0.key == self.key })
            else { throw DockerAdmission.silence(of: sidecar) }
            try await self.environment.remove([sidecar])
        }
    }

    /// Not until the last connection that a sidecar passes on has ended, which may take long: it needs nobody for that.
    func waitForEnd(of sidecars: [DockerSidecar]) async throws {
        guard !sidecars.isEmpty else { return }
        let result = try await self.model.client.run(["wait"] + sidecars.map(\.id), within: Self.endsWithin)
        await self.model.touch()
        guard !result.isLate else { return }
        // The engine removes their containers now.
        for _ in 0..<10 {
            let there = try await self.model.project(.now).sidecars
            guard there.contains(where: { one in sidecars.contains { $0.id == one.id } }) else { return }
            try await Task.sleep(for: Self.pause)
        }
    }
}
