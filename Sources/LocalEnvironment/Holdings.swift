import Environments
import InterceptModel
import SidecarInterface

/// The holders in a local environment: the record, together with what the sidecars report. If the two differ, the sidecars are
/// right: the record has what people were told when they started.
struct Holdings {
    let all: [InterceptRecord]

    /// - Parameter status: nil: nothing of the environment runs.
    init(_ records: [InterceptRecord], _ status: LocalStatus?, at now: UTCTime = .now) {
        guard let status else {
            self.all = records.map { record in
                var record = record
                record.isDiverting = false
                return record
            }
            return
        }
        // Without a supervisor, the state file doesn't say what the sidecars do now.
        guard status.isSupervised else {
            self.all = records
            return
        }
        // Entries that are in nobody's way any more aren't shown either (`RecordFile.claim`).
        let records = records.filter { record in
            let seconds = record.unseenSeconds(at: now) ?? 0
            return seconds < InterceptRecord.unseenAtMost || !status.isUnknown(record)
        }
        let sidecars = Dictionary(
            status.services.map { ($0.service.name, $0.sidecars) },
            uniquingKeysWith: { first, _ in first }
        )
        let recorded = records.map { record in
            sidecars[record.service].map { Self.merged(record, $0) } ?? record
        }
        let unrecorded = status.services.flatMap { service in
            let known = Set(records.filter { $0.service == service.service.name }.map(\.holder.publicKey))
            return Self.records(of: service).filter { !known.contains($0.holder.publicKey) }
        }
        self.all = (recorded + unrecorded).map { record in
            var record = record
            record.originalSees = .worst(of: (sidecars[record.service] ?? []).compactMap(\.location?.originalSees))
            return record
        }
    }

    private static func merged(
        _ record: InterceptRecord,
        _ sidecars: [EnvironmentState.SidecarState]
    ) -> InterceptRecord {
        var record = record
        let told = sidecars.compactMap(\.holders)
        let own = told.joined().filter { $0.key == record.holder.publicKey && $0.kind == record.kind }
        // A sidecar of an earlier version reports one holder, which holds the whole service.
        guard told.isEmpty else {
            record.tell(own)
            return record
        }
        record.isDiverting = sidecars.contains { $0.divertingTo == record.holder.publicKey }
        record.connections = InterceptRecord.Connections(
            open: sidecars.reduce(0) { $0 &+ $1.open },
            total: sidecars.reduce(0) { $0 &+ $1.total },
            passed: sidecars.reduce(0) { $0 &+ $1.passed }
        )
        return record
    }

    /// Records of the workspaces that the sidecars serve, whether or not `record.json` has them. A workspace that isn't served
    /// may be about to be forgotten, so it gets none.
    private static func records(of service: EnvironmentState.ServiceState) -> [InterceptRecord] {
        let served = service.sidecars.flatMap { $0.holders ?? [] }.filter(\.isServed)
        return Dictionary(grouping: served, by: \.key).values.compactMap { ofOne in
            guard let first = ofOne.first else { return nil }
            var record = InterceptRecord(
                service: service.service.name,
                holder: Member(label: first.workspace.printable, publicKey: first.key.printable),
                since: first.since.printable,
                ports: first.servicePorts.map { .init(service: $0.number, transport: $0.transport, target: "") },
                kind: first.kind
            )
            record.tell(ofOne)
            return record
        }
    }
}

extension InterceptRecord {
    /// - Parameter holdings: the workspace's, at each of the service's sidecars.
    fileprivate mutating func tell(_ holdings: [SidecarReport.Holder]) {
        self.isDiverting = holdings.contains(where: \.isServed)
        if let last = holdings.compactMap(\.lastSeen).max() { self.lastSeen = last.printable }
        func sum(_ count: (SidecarReport.Holder) -> UInt64) -> UInt64 { holdings.reduce(0) { $0 &+ count($1) } }
        self.connections = Connections(
            open: sum(\.open),
            total: sum(\.total),
            passed: sum(\.passed),
            behind: self.kind == .mirror ? sum(\.behind) : nil
        )
    }
}
