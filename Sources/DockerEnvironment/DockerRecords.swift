import Environments
import InterceptModel
import Noise
import SidecarInterface

/// The holders of a service's ports, as its sidecars' last reports name them.
extension DockerEnvironment {
    func records(
        of name: String,
        _ sidecars: [DockerSidecar],
        _ service: DockerService?
    ) async throws -> [InterceptRecord] {
        let said = try await withThrowingTaskGroup { group in
            for (index, sidecar) in sidecars.enumerated() {
                group.addTask { (index, try await self.model.lastWords(of: sidecar)) }
            }
            return try await group.reduce(into: [Int: SidecarWords]()) { all, one in all[one.0] = one.1 }
        }
        let seen = sidecars.enumerated().compactMap { index, sidecar in
            said[index].flatMap { Self.seen(by: $0, at: service?.target(of: sidecar)) }
        }
        return DockerRecords(of: name, sidecars.enumerated().map { ($1, said[$0]) }).all.map { record in
            var record = record
            record.originalSees = .worst(of: seen)
            return record
        }
    }
}

struct DockerRecords {
    private(set) var all: [InterceptRecord] = []

    /// † More than a sidecar admits.
    private static let holdersAtMost = 64

    /// - Parameter said: each sidecar with its last report; nil: there is none yet.
    init(of service: String, _ said: [(sidecar: DockerSidecar, words: SidecarWords?)]) {
        // Of a sidecar of an earlier version, or one that was just made, only the labels name the holder.
        let labelled = said.filter { !$0.sidecar.admits || $0.words?.holders == nil }
        for (_, words) in said.filter({ $0.sidecar.admits }) {
            for holder in (words?.holders ?? []).prefix(Self.holdersAtMost) { self.add(holder, service) }
        }
        if let first = labelled.first?.sidecar,
            !self.all.contains(where: { $0.holder.publicKey == first.holder.publicKey })
        {
            let own = labelled.filter { $0.sidecar.holder.publicKey == first.holder.publicKey }
            // A shared sidecar that is just being made adds nothing to what another replica's sidecar says.
            if !first.admits || self.all.isEmpty {
                self.all.append(Self.record(of: service, first, own.compactMap(\.words)))
            }
        }
        self.all.sort { $0.isBefore($1) }
    }

    /// Adds what one replica's sidecar says of a holder; other replicas' sidecars may have said something of it already.
    private mutating func add(_ said: SidecarReport.Holder, _ service: String) {
        guard PublicKey(base64: said.key) != nil else { return }
        let index: Int
        if let known = self.all.firstIndex(where: { $0.holder.publicKey == said.key }) {
            index = known
        } else {
            index = self.all.count
            let holder = Member(label: said.workspace.printable, publicKey: said.key)
            let record = InterceptRecord(
                service: service,
                holder: holder,
                since: said.since.printable,
                ports: [],
                kind: said.kind
            )
            self.all.append(record)
        }
        var record = self.all[index]
        let ports = said.ports.compactMap { DockerContainer.port($0) }
        record.ports = Self.ports(Set(record.ports.map(\.port)).union(ports))
        record.since = min(record.since, said.since.printable)
        let counts = InterceptRecord.Connections(
            open: said.open,
            total: said.total,
            passed: said.passed,
            behind: said.kind == .mirror ? said.behind : nil
        )
        record.add(counts, isServed: said.isServed, lastSeen: said.lastSeen?.printable)
        self.all[index] = record
    }

    private static func ports(_ ports: Set<ServicePort>) -> [InterceptRecord.Port] {
        ports.sorted { ($0.transport.rawValue, $0.number) < ($1.transport.rawValue, $1.number) }
            .map { .init(service: $0.number, transport: $0.transport, target: "") }
    }

    /// The labels say which workspace holds the service and since when; the sidecars' output says which ports, and whether the
    /// sidecars divert them to the holder.
    private static func record(
        of service: String,
        _ first: DockerSidecar,
        _ said: [SidecarWords]
    ) -> InterceptRecord {
        let own = said.compactMap(\.intercept).filter { $0.key == first.holder.publicKey }
        let ports =
            own.flatMap { $0.ports ?? [] }.map { ServicePort($0) }
            + own.flatMap { $0.udpPorts ?? [] }.map { ServicePort($0, .udp) }
        var record = InterceptRecord(
            service: service,
            holder: first.holder,
            since: first.since,
            ports: Self.ports(Set(ports))
        )
        record.isDiverting = own.contains(where: \.diverting)
        record.connections = InterceptRecord.Connections(
            open: own.reduce(0) { $0 &+ ($1.open ?? 0) },
            total: own.reduce(0) { $0 &+ ($1.total ?? 0) },
            passed: own.reduce(0) { $0 &+ ($1.passed ?? 0) }
        )
        return record
    }
}

extension InterceptRecord {
    /// By service; intercepts come before mirrors.
    func isBefore(_ other: InterceptRecord) -> Bool {
        (self.service, self.kind == .mirror ? 1 : 0, self.since, self.holder.label)
            < (other.service, other.kind == .mirror ? 1 : 0, other.since, other.holder.label)
    }
}
