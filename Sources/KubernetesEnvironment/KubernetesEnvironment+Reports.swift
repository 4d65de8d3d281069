import Environments
import FoundationEssentials
import InterceptModel
import Noise
import SidecarInterface

/// What the namespace's objects and its sidecars' logs say of holders.
extension KubernetesEnvironment {
    /// A pod's newest sidecar that runs and reports, with its last report. Without any report: the newest, and nil.
    struct Report: Sendable {
        var pod: Pod
        var sidecar: PodSidecar
        var words: SidecarWords?
    }

    /// † Enough to see whether traffic goes to a holder.
    private static let reportsAtMost = 8
    /// † Of a pod's containers.
    private static let triedAtMost = 3
    /// † The API server passes each on to a kubelet.
    private static let readAtOnce = 16

    /// Throws `.noSuchService` if it isn't there.
    func view(of name: String, isFollowed: Bool = false) async throws -> ServiceView {
        let read = isFollowed ? try await self.model.followed(name) : try await self.model.read(name)
        if let (service, pods) = read { return ServiceView(service: service, pods: pods) }
        let names = await self.model.sidecars.allServices(self.model).map(\.name)
        let suggestion = Suggestion.sentence(for: name, among: names)
        let mend = suggestion.isEmpty ? " See what is there: kl env status" : "\(suggestion) (kl env status lists them)"
        throw Problem(
            .noSuchService,
            "service \(name.quoted) isn't in environment \(self.reference.name.quoted).\(mend)"
        )
    }

    func contended(_ name: String) -> Problem {
        Problem(.failed, "Service '\(name.printable)' is being changed by others all the time", "Try again.")
    }

    // MARK: Logs

    /// The last report of each pod's newest sidecar.
    func reports(_ view: ServiceView, atMost limit: Int) async -> [Report] {
        await self.reports(view.pods, atMost: limit)
    }

    private func reports(_ pods: [Pod], atMost limit: Int) async -> [Report] {
        let running = pods.compactMap { pod -> [Report]? in
            // Another program's container may have such a name.
            let all = pod.sidecars.filter { $0.life == .running }.suffix(Self.triedAtMost).reversed()
            return all.isEmpty ? nil : all.map { Report(pod: pod, sidecar: $0) }
        }
        .prefix(limit)
        return await withTaskGroup(of: Report.self) { group in
            var reports: [Report] = []
            for (index, tries) in running.enumerated() {
                if index >= Self.readAtOnce, let read = await group.next() { reports.append(read) }
                guard let newest = tries.first else { continue }
                group.addTask {
                    for var report in tries {
                        report.words = try? await self.lastWords(of: report.sidecar, report.pod)
                        if report.words != nil { return report }
                    }
                    return newest
                }
            }
            for await report in group { reports.append(report) }
            return reports.sorted { $0.pod.name < $1.pod.name }
        }
    }

    /// Nil: its log has no report.
    func lastWords(of sidecar: PodSidecar, _ pod: Pod) async throws -> SidecarWords? {
        for tail in ["50", "1000"] {
            let text = try await self.model.client.text(
                self.log(of: pod),
                [("container", sidecar.name), ("tailLines", tail)],
                atMost: 4 * 1_048_576
            )
            if let words = SidecarWords.last(in: text) { return words }
        }
        return nil
    }

    /// Its first report, as soon as it is there. Nil: there is none in time.
    func firstWords(of sidecar: PodSidecar, _ pod: Pod, within time: Duration) async throws -> SidecarWords? {
        struct Found: Error { let words: SidecarWords }
        let late = APIFailure.late("the sidecar says nothing")
        do {
            try await within(time, else: late) {
                try await self.model.client.watch(self.log(of: pod), [("container", sidecar.name), ("follow", "true")])
                { line in
                    if let words = SidecarWords(line: String(decoding: line, as: UTF8.self)) {
                        throw Found(words: words)
                    }
                }
            }
        } catch let found as Found {
            return found.words
        } catch let error as APIFailure where error == late {
            return nil
        }
        return nil
    }

    private func log(of pod: Pod) -> String { self.model.client.path("pods/\(pod.name)/log") }

    // MARK: Sidecars and holders as they are

    func currentSidecars(of service: String) async throws -> [SidecarLocation] {
        let view = try await self.view(of: service)
        var locations: [SidecarLocation] = []
        for report in await self.reports(view, atMost: .max) {
            guard let words = report.words else { continue }
            await self.model.sidecars.heard(words, from: report.sidecar.name, in: report.pod)
            locations.append(
                view.location(of: report.pod, at: (report.sidecar.name, words), for: view.allPorts)
            )
        }
        return locations
    }

    /// Of the first Service whose record can't be read.
    func currentRecordProblem() async -> Problem? {
        for service in await self.model.sidecars.allServices(self.model) {
            do throws(Problem) { _ = try service.holders } catch { return error }
        }
        return nil
    }

    func currentRecords() async throws -> [InterceptRecord] {
        let (services, isWhole) = try await self.model.visibleServices()
        var pods = try await self.model.pods()
        if !isWhole { pods = pods.filter { $0.isSelected(byAnyOf: services) } }
        // Services without an annotation may lead to pods of which another one's holder has ports.
        let held = pods.filter { pod in pod.sidecars.contains { $0.life == .running } }
        var views = services.compactMap { service -> ServiceView? in
            let isHeld = held.contains { $0.isSelected(by: service.selector) }
            guard isHeld || service.metadata.annotations?[HolderList.annotation] != nil else { return nil }
            return ServiceView(service: service, pods: pods.filter { $0.isSelected(by: service.selector) })
        }
        views += pods.filter { pod in
            !pod.sidecars.isEmpty && !services.contains { pod.isSelected(by: $0.selector) }
        }
        .map { ServiceView(service: ServiceObject(of: $0), pods: [$0]) }
        views.sort { $0.service.name < $1.service.name }
        let reports = await self.reportsByPod(views)
        var records: [(record: InterceptRecord, isOwn: Bool)] = []
        var holdingAt: [String: String] = [:]
        for view in views {
            // What can't be read hides nobody: the sidecars know their holders.
            let list = (try? view.service.holders) ?? HolderList()
            for entry in list.entries { holdingAt[entry.key] = view.service.name }
            let ofView = view.pods.compactMap { reports[$0.uid] }.sorted { $0.pod.name < $1.pod.name }
            let all = KubernetesRecords(view, list, ofView).all
            // An entry of its own counts, whoever has written the same key at another Service.
            records += all.map { (record: $0, isOwn: list.entry(of: $0.holder.publicKey) != nil) }
        }
        return records.map { record, isOwn in
            var record = record
            if !isOwn { record.through = holdingAt[record.holder.publicKey] }
            return record
        }
    }

    /// Each pod is asked once, however many Services select it.
    private func reportsByPod(_ views: [ServiceView]) async -> [String: Report] {
        var asked: [String: Pod] = [:]
        for view in views {
            for pod in view.pods.filter({ $0.sidecars.contains { $0.life == .running } }).prefix(Self.reportsAtMost) {
                asked[pod.uid] = pod
            }
        }
        let reports = await self.reports(Array(asked.values), atMost: .max)
        return Dictionary(reports.map { ($0.pod.uid, $0) }, uniquingKeysWith: { first, _ in first })
    }
}

/// The holders of a Service's ports, as its annotation and its sidecars' reports name them.
struct KubernetesRecords {
    private(set) var all: [InterceptRecord]
    private let view: ServiceView

    /// † More than a sidecar admits.
    private static let holdersAtMost = 64

    init(_ view: ServiceView, _ list: HolderList, _ reports: [KubernetesEnvironment.Report]) {
        self.view = view
        self.all = list.entries.map { $0.record(of: view.service.name) }
        for report in reports {
            for holder in (report.words?.holders ?? []).prefix(Self.holdersAtMost) { self.add(holder, report.pod) }
        }
        let seen = SeenAddress.worst(of: reports.compactMap { $0.words?.originalSees(in: $0.pod) })
        for index in self.all.indices { self.all[index].originalSees = seen }
        if !reports.isEmpty {
            for index in self.all.indices where self.all[index].isDiverting == nil {
                self.all[index].isDiverting = false
            }
        }
        self.all.sort { $0.since < $1.since }
    }

    private mutating func add(_ said: SidecarReport.Holder, _ pod: Pod) {
        guard PublicKey(base64: said.key) != nil else { return }
        let ports = Set(said.servicePorts.flatMap { self.view.servicePorts(of: $0, in: pod) })
        let index: Int
        if let known = self.all.firstIndex(where: { $0.holder.publicKey == said.key }) {
            index = known
        } else {
            // Another Service's holder, which has other ports of the same pods.
            guard !ports.isEmpty else { return }
            index = self.all.count
            self.all.append(
                InterceptRecord(
                    service: self.view.service.name,
                    holder: Member(label: said.workspace.printable, publicKey: said.key),
                    since: said.since.printable,
                    ports: ports.sorted().map { .init(service: $0.number, transport: $0.transport, target: "") },
                    kind: said.kind
                )
            )
        }
        var record = self.all[index]
        let counts = InterceptRecord.Connections(
            open: said.open,
            total: said.total,
            passed: said.passed,
            behind: said.kind == .mirror ? said.behind : nil
        )
        record.add(counts, isServed: said.isServed, lastSeen: said.lastSeen?.printable)
        self.all[index] = record
    }
}
