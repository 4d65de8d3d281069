import Environments
import InterceptModel

/// A claim in `record.json`. The sidecars are the supervisor's, which starts them anew by itself; the holder's key is let
/// into them.
struct LocalClaim: ServiceClaim {
    let environment: LocalEnvironment
    let record: InterceptRecord

    func take(force: Bool) async throws -> ClaimResult {
        try await Blocking.run {
            let status = try self.environment.status()
            _ = try status.find(self.record.service)
            var record = self.record
            record.lastSeen = UTCTime.now.rfc3339
            let file = RecordFile(in: status.folder)
            let result = try file.claim(record, force: force, isUnknown: status.isUnknown)
            guard case .heldBy(let other) = result else { return result }
            return .heldBy(Holdings([other], status).all.first ?? other)
        }
    }

    func sidecars() async throws -> [SidecarLocation] {
        let service = self.record.service
        try await Blocking.run {
            let status = try self.environment.status()
            _ = try status.find(service)
            try self.environment.introduce(self.record.holder, in: status)
        }
        let deadline = ContinuousClock.now + self.environment.patience
        while true {
            let (status, found) = try await Blocking.run {
                let status = try self.environment.status()
                return (status, try status.find(service))
            }
            guard !found.sidecars.isEmpty else {
                throw Problem(
                    .failed,
                    "service \(service.quoted) publishes no ports, so there is nothing to intercept",
                    "Give it 'ports' in \(self.environment.reference.location)"
                )
            }
            guard let late = found.sidecars.first(where: { $0.location == nil }) else {
                return found.sidecars.compactMap(\.location)
            }
            // Without a supervisor, no other sidecar will be started.
            guard status.isSupervised else { throw status.withoutSidecar(service) }
            guard ContinuousClock.now < deadline else {
                throw Problem(
                    .failed,
                    "the sidecar \(late.name.quoted) isn't ready: \(late.reason ?? "it is \(late.state.rawValue)")",
                    "Look into \(status.folder.log(ofSidecar: late.name))"
                )
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// While the sidecars say that all is well, their reports are more current than the record.
    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState {
        let key = self.record.holder.publicKey
        if occasion != .routine {
            let records = try await self.environment.recorded(of: self.record.service)
            guard records.contains(where: { $0.holder.publicKey == key }) else {
                return records.first { $0.conflicts(with: self.record) }.map { .lost(to: $0) } ?? .ended
            }
        }
        let locations = try await self.environment.sidecars(of: self.record.service)
        // † What can't be written now is written when the environment is next read.
        try? await Blocking.run {
            guard let folder = try StateFolder.open(besideFile: self.environment.reference.location) else { return }
            try RecordFile(in: folder).touch(service: self.record.service, publicKey: key)
        }
        return locations.isEmpty ? .restarting : .sidecars(locations)
    }

    /// None: one that ended is started again.
    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] { [] }

    func release() async throws {
        try await Blocking.run {
            guard let folder = try StateFolder.open(besideFile: self.environment.reference.location) else { return }
            try RecordFile(in: folder).release(
                service: self.record.service,
                publicKey: self.record.holder.publicKey
            )
        }
    }
}
