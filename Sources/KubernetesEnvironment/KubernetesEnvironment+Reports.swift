import Environments
import FoundationEssentials
import InterceptModel
import Noise
import SidecarInterface

/// What the namespace's objects and its sidecars' logs say of holders.
extension KubernetesEnvironment {
    /// A pod's newest sidecar that runs, with its last report. Nil: it can't be read.
    struct Report: Sendable {
        var pod: Pod
        var sidecar: PodSidecar
        var words: SidecarWords?
    }

    /// † Enough to see whether traffic goes to a holder.
    private static let reportsAtMost = 8
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
        let running = view.pods.compactMap { pod in
            pod.sidecars.last { $0.life == .running }.map { Report(pod: pod, sidecar: $0) }
        }
        .prefix(limit)
        return await withTaskGroup(of: Report.self) { group in
            var reports: [Report] = []
            for (index, report) in running.enumerated() {
                if index >= Self.readAtOnce, let read = await group.next() { reports.append(read) }
                group.addTask {
                    var report = report
                    report.words = try? await self.lastWords(of: report.sidecar, report.pod)
                    return report
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

    func currentRecords() async throws -> [InterceptRecord] {
        let (services, isWhole) = try await self.model.visibleServices()
        var pods = try await self.model.pods()
        if !isWhole { pods = pods.filter { $0.isSelected(byAnyOf: services) } }
        var views = services.filter { $0.metadata.annotations?[HolderList.annotation] != nil }.map { service in
            ServiceView(service: service, pods: pods.filter { $0.isSelected(by: service.selector) })
        }
        views += pods.filter { pod in !services.contains { pod.isSelected(by: $0.selector) } }
            .map { ServiceView(service: ServiceObject(of: $0), pods: [$0]) }
            .filter { !$0.pods.flatMap(\.sidecars).isEmpty }
        var records: [InterceptRecord] = []
        for view in views.sorted(by: { $0.service.name < $1.service.name }) {
            guard let list = try? view.service.holders else { continue }
            records += KubernetesRecords(view, list, await self.reports(view, atMost: Self.reportsAtMost)).all
        }
        return records
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
