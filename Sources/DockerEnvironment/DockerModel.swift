import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import SidecarInterface
import Synchronization

/// What this process knows of one Docker environment: what was read last, and whether that is still valid.
///
/// While a caller follows changes, `docker events` says when to read again, and until then the engine isn't asked.
actor DockerModel {
    enum Freshness {
        /// Read now.
        case now
        /// The last reading if the engine's events say that nothing has changed since; if they aren't followed, read now.
        case followed
        /// Also a reading that is at most 300 ms old, so that one command with several questions reads once.
        case recent
    }

    let place: DockerPlace
    let client: DockerClient
    private var project: DockerProject?
    private var readAt = ContinuousClock.now
    /// Incremented by everything that may make `project` outdated.
    private var version: UInt64 = 0
    private var readVersion: UInt64?
    private var isFollowing = false
    private var events: DockerEvents?
    private var listeners = ChangeListeners()
    /// Containers that were asked to end, and the time until which that may still happen.
    private var ending: [String: ContinuousClock.Instant] = [:]
    /// The first processes of containers that have a sidecar, where they can be seen from here.
    private var processes: [String: (process: Int32, watch: ProcessEndWatch)] = [:]
    /// Since when this process has seen containers of sidecars that don't run yet, by their ids.
    private var coming: [String: ContinuousClock.Instant] = [:]
    private var knowsPodman: Bool?
    /// What each sidecar has reported; its key and port stay the same as long as it runs.
    private var words: [SidecarIdentity: Said] = [:]

    private struct SidecarIdentity: Hashable {
        var name: String
        var holder: String
        var since: String

        init(_ sidecar: DockerSidecar) {
            self.name = sidecar.name
            self.holder = sidecar.holder.publicKey
            self.since = sidecar.since
        }
    }

    private struct Said {
        var words: SidecarWords
        /// The keys that this process has had admitted to the sidecar.
        var admits: Set<String> = []
        /// The time at which its container was started; nil: not read yet.
        var started: String?
    }

    /// † Docker's default stop timeout, in seconds; `endsLater` is a margin on top.
    private static let usualStopTimeout = 10
    private static let endsLater = Duration.seconds(2)

    /// † Long enough for several questions of one command.
    private static let recently = Duration.milliseconds(300)
    private static let containersAtMost = 2_000
    /// † An engine starts what it has made within some tenths of a second, on a busy machine within seconds. By this process's own
    /// clock, since the engine's may be set otherwise.
    var comesWithin = Duration.seconds(30)

    private static let all = Mutex<[DockerPlace: DockerModel]>([:])

    /// All users of an environment in this process share one model.
    static func of(_ place: DockerPlace) -> DockerModel {
        Self.all.withLock { all in
            if let model = all[place] { return model }
            let model = DockerModel(place)
            all[place] = model
            return model
        }
    }

    init(_ place: DockerPlace) {
        self.place = place
        self.client = DockerClient(engine: place.engine)
    }

    // MARK: Reading

    func project(_ freshness: Freshness) async throws -> DockerProject {
        self.withEnding(try await self.read(freshness))
    }

    private func withEnding(_ project: DockerProject) -> DockerProject {
        var project = project
        let now = ContinuousClock.now
        self.ending = self.ending.filter { $0.value > now }
        project.ending = Set(self.ending.keys)
        for index in project.sidecars.indices {
            guard let since = self.coming[project.sidecars[index].id] else { continue }
            project.sidecars[index].isStuck = now - since > self.comesWithin
        }
        return project
    }

    private func read(_ freshness: Freshness) async throws -> DockerProject {
        if let project {
            switch freshness {
            case .now: break
            case .followed where self.isFollowing && self.readVersion == self.version: return project
            case .recent where self.isFollowing && self.readVersion == self.version: return project
            case .recent where self.readVersion == self.version && ContinuousClock.now < self.readAt + Self.recently:
                return project
            default: break
            }
        }
        let version = self.version
        let (containers, rows) = try await self.containers()
        let project = DockerProject(self.place.selection, containers, rows)
        // A reading that began later may have finished earlier; keep that one.
        if version >= self.readVersion ?? 0 {
            self.project = project
            self.readVersion = version
            self.readAt = .now
            let coming = project.sidecars.filter(\.isComing).map { ($0.id, self.coming[$0.id] ?? .now) }
            self.coming = Dictionary(coming, uniquingKeysWith: { first, _ in first })
            self.watchProcesses(of: project)
        }
        return project
    }

    /// Marks the last reading as outdated.
    func touch() { self.version += 1 }

    private func containers() async throws -> ([DockerContainer], [DockerRows.Row]) {
        let rows = DockerRows.rows(try await self.client.answer(DockerRows.arguments))
        let ids = DockerRows.ids(rows, self.place.selection)
        guard !ids.isEmpty else { return ([], rows) }
        guard ids.count <= Self.containersAtMost else {
            throw Problem(
                .failed,
                "environment \(self.place.reference.name.quoted) has \(ids.count) containers, and at most"
                    + " \(Self.containersAtMost) are looked at",
                "Remove those that aren't needed: docker container prune"
            )
        }
        let result = try await self.client.run(["container", "inspect", "--format", DockerContainer.format] + ids)
        // A container that was removed in between isn't an error.
        guard result.code == 0 || (result.code == 1 && DockerClient.isMissing(result.errors)) else {
            throw self.client.error(result)
        }
        return (DockerContainer.parse(result.output), rows)
    }

    /// Whether the engine is podman, which doesn't remove a container whose network another container has joined by
    /// `--network container:`.
    func isPodman() async -> Bool {
        if let knowsPodman { return knowsPodman }
        let words = ["version", "--format", "{{range .Server.Components}}{{.Name}}\n{{end}}"]
        guard let said = try? await self.client.answer(words) else { return false }
        let isPodman = said.split(separator: "\n").contains("Podman Engine")
        self.knowsPodman = isPodman
        return isPodman
    }

    /// The id of the image that has this name now; nil: there is none, or the engine can't tell.
    func imageID(of name: String) async -> String? {
        let result = try? await self.client.run(["image", "inspect", "--format", "{{.Id}}", name])
        guard let result, result.code == 0 else { return nil }
        return result.output.split(separator: "\n").first.map { DockerContainer.bareID(String($0)) }
    }

    // MARK: Sidecars

    /// Adds a sidecar that was just made, with its first report.
    func add(_ sidecar: DockerSidecar, _ words: SidecarWords) {
        self.version += 1
        self.words[SidecarIdentity(sidecar)] = Said(words: words, admits: [sidecar.holder.publicKey])
        guard var project else { return }
        project.sidecars.removeAll { $0.name == sidecar.name }
        project.sidecars.append(sidecar)
        project.sidecars.sort { ($0.service, $0.replica, $0.name) < ($1.service, $1.replica, $1.name) }
        self.project = project
    }

    func forget(_ sidecars: [DockerSidecar]) {
        self.version += 1
        for sidecar in sidecars { self.words[SidecarIdentity(sidecar)] = nil }
        self.project?.sidecars.removeAll { one in sidecars.contains { $0.id == one.id } }
    }

    /// The last reading without asking the engine, with this process's own changes since.
    var known: DockerProject? { self.project.map { self.withEnding($0) } }

    /// What a sidecar reports of itself; the engine is asked only if it isn't known yet.
    /// - Parameter patience: in milliseconds, for its first line. Nil: it isn't ready.
    func words(of sidecar: DockerSidecar, within patience: Int64 = 2_000) async throws -> SidecarWords? {
        let identity = SidecarIdentity(sidecar)
        if let said = self.words[identity] {
            if said.started == nil { self.words[identity]?.started = sidecar.started }
            // A sidecar that was restarted has another key.
            if self.isSame(said, sidecar) { return said.words }
        }
        let result = try await self.client.run(
            ["logs", "--follow", sidecar.id],
            within: patience,
            until: { SidecarWords.last(in: $0) != nil }
        )
        guard let words = SidecarWords.last(in: result.output) else { return nil }
        self.words[identity] = Said(words: words, started: sidecar.started)
        return words
    }

    /// The sidecar has admitted this key now.
    func admitted(_ key: String, at sidecar: DockerSidecar, _ words: SidecarWords) {
        let identity = SidecarIdentity(sidecar)
        let isKnown = self.isSame(self.words[identity], sidecar)
        let others = isKnown ? self.words[identity]?.admits ?? [] : []
        self.words[identity] = Said(words: words, admits: others.union([key]), started: sidecar.started)
    }

    func left(_ key: String, _ sidecar: DockerSidecar) { self.words[SidecarIdentity(sidecar)]?.admits.remove(key) }

    /// Whether this process has had the key admitted to the sidecar. A sidecar that was restarted since has forgotten the key.
    func isAdmitted(_ key: String, at sidecar: DockerSidecar) -> Bool {
        let identity = SidecarIdentity(sidecar)
        guard let said = self.words[identity], said.admits.contains(key) else { return false }
        if said.started == nil { self.words[identity]?.started = sidecar.started }
        return self.isSame(said, sidecar)
    }

    private func isSame(_ said: Said?, _ sidecar: DockerSidecar) -> Bool {
        guard let started = said?.started, let now = sidecar.started else { return said != nil }
        return started == now
    }

    /// The sidecar's last report, including its connection counts. Nil: there is none, or the sidecar has gone.
    func lastWords(of sidecar: DockerSidecar) async throws -> SidecarWords? {
        for tail in ["50", "all"] {
            let result = try await self.client.run(["logs", "--tail", tail, sidecar.id])
            if result.isLate { throw self.client.error(result) }
            if let words = SidecarWords.last(in: result.output) { return words }
            guard result.code == 0 else { return nil }
        }
        return nil
    }

    // MARK: Following

    func changes() -> AsyncStream<EnvironmentChange> {
        let stream = self.listeners.add { [weak self] number in Task { await self?.stopListening(number) } }
        if self.events == nil {
            self.events = DockerEvents(self.place.engine) { [weak self] news in
                Task { await self?.heard(news) }
            }
        }
        return stream
    }

    private func stopListening(_ number: UInt64) {
        self.listeners.remove(number)
        guard self.listeners.isEmpty else { return }
        self.events?.end()
        self.events = nil
        self.isFollowing = false
        self.processes = [:]
    }

    private func heard(_ news: DockerEvents.News) {
        guard self.events != nil else { return }
        switch news {
        case .began: self.isFollowing = true
        case .ended: self.isFollowing = false
        case .changed(let event):
            guard let event else { break }
            guard self.concerns(event) else { return }
            self.noteEnding(event)
        }
        self.version += 1
        self.tell(.any)
    }

    private func tell(_ change: EnvironmentChange) {
        self.listeners.tell(change)
    }

    private func concerns(_ event: DockerEvent) -> Bool {
        // Network events don't carry the container's labels.
        if let id = event.container, self.project?.has(id) ?? false { return true }
        guard case .project(let name) = self.place.selection, event.Type != "network",
            !(event.Actor?.Attributes ?? [:]).isEmpty
        else { return true }
        return event.attribute(DockerService.projectLabel) == name || event.attribute(SidecarLabel.project) == name
    }

    /// The engine removes the network some hundredths of a second after a container's program has ended. The sidecar's open
    /// connections must end before that, or their clients wait for ever.
    private func noteEnding(_ event: DockerEvent) {
        guard let id = event.container, let (service, replica) = self.project?.replica(id) else { return }
        if event.isDeath || event.isStart { self.ending[id] = nil }
        if event.isDeath { return self.tellEnding(of: service, replica) }
        guard event.asksToEnd(replica.container, ofPodman: self.knowsPodman ?? false) else { return }
        let timeout = replica.container.stopTimeout.flatMap { $0 > 0 ? $0 : nil } ?? Self.usualStopTimeout
        // Once it has ended the engine says so.
        self.ending[id] = .now + .seconds(timeout) + Self.endsLater
        self.tellEnding(of: service, replica)
    }

    private func tellEnding(of service: DockerService, _ replica: DockerService.Replica) {
        self.tell(.ending(service: service.name, sidecar: service.sidecarName(replica.number)))
    }

    // MARK: Processes

    /// Of a crash an engine tells when it takes the network away, and podman of a `stop` no sooner: the kernel tells at once.
    private func watchProcesses(of project: DockerProject) {
        guard self.events != nil else { return }
        let targets = Set(project.sidecars.filter(\.isRunning).map(\.target))
        let before = self.processes
        self.processes = [:]
        for target in targets {
            guard let (service, replica) = project.replica(target), replica.container.isRunning,
                let process = replica.container.process
            else { continue }
            if let known = before[target], known.process == process {
                self.processes[target] = known
                continue
            }
            let change = EnvironmentChange.ending(
                service: service.name,
                sidecar: service.sidecarName(replica.number)
            )
            let listeners = self.listeners
            let watch = ProcessEndWatch(
                of: process,
                isMeant: { DockerContainer.isProcess(process, of: target) },
                onEnd: { [weak self] in
                    // At once: after a `stop` podman takes the network away within 20 ms. Who listens since hears it after.
                    listeners.tell(change)
                    Task { await self?.processEnded(process, of: target) }
                }
            )
            if let watch { self.processes[target] = (process, watch) }
        }
    }

    private func processEnded(_ process: Int32, of id: String) {
        guard let known = self.processes[id], known.process == process else { return }
        self.processes[id] = nil
        guard let (service, replica) = self.project?.replica(id), replica.container.process == process else { return }
        self.ending[id] = .now + Self.endsLater
        self.tellEnding(of: service, replica)
    }
}

/// `docker ps`: lists the engine's containers and their projects.
enum DockerRows {
    /// Any container of the engine: its id, its name, and its compose project if it has one.
    struct Row: Equatable, Sendable {
        var id: String
        var project: String
        fileprivate var sidecarProject: String
        fileprivate var networks: String
        var name: String
    }

    private static let row = """
        [{{json .ID}},{{json (.Label "\(DockerService.projectLabel)")}},{{json (.Label "\(SidecarLabel.project)")}},\
        {{json .Networks}},{{json .Names}}]
        """

    static let arguments = ["ps", "--all", "--no-trunc", "--format", Self.row]

    static func rows(_ lines: String) -> [Row] {
        lines.split(separator: "\n").compactMap { line in
            guard let columns = try? JSONDecoder().decode([String].self, from: Data(line.utf8)), columns.count == 5,
                DockerPlace.isSoundName(columns[0])
            else {
                return nil
            }
            // A container that others link to has names with a slash for them, too; its own name has no slash.
            let name = columns[4].split(separator: ",").first { !$0.contains("/") } ?? ""
            return Row(
                id: columns[0],
                project: columns[1],
                sidecarProject: columns[2],
                networks: columns[3],
                name: String(name)
            )
        }
    }

    static func ids(_ rows: [Row], _ selection: DockerPlace.Selection) -> [String] {
        rows.filter { row in
            switch selection {
            case .project(let name): row.project == name || row.sidecarProject == name
            case .network(let name):
                !row.sidecarProject.isEmpty || row.networks.split(separator: ",").contains { $0 == name }
            }
        }
        .map(\.id)
    }

    /// The compose projects of which there are containers, sorted.
    static func projects(_ lines: String) -> [String] {
        let names = Self.rows(lines).map(\.project)
        return Set(names.filter { DockerPlace.isSoundName($0) }).sorted()
    }
}
