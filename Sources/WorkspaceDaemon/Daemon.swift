public import Environments
import HostSupport
import InterceptModel
import Libc
import Logging
import NIOCore
import WorkspaceAPI
import WorkspaceAgent

/// Creates an environment from its stored reference.
public typealias EnvironmentMaker = @Sendable (EnvironmentReference) throws -> any Environment

/// Holds a developer's intercepts, and carries out the CLI's requests.
@DaemonLoop
final class Daemon {
    /// A service's intercept; the requests for it are carried out one after the other.
    @DaemonLoop
    final class Slot {
        let turnstile = Turnstile()
        var intercept: Intercept?
        /// Cancels the start that is under way; nil: there is none.
        var cancelStart: (() -> Void)?
        /// The kind of that start.
        private(set) var startedKind = HoldingKind.intercept
        /// Why this daemon cancelled the start; nil: it was cancelled because its client has gone.
        private(set) var cancellation: Problem?
        var waiting = 0

        func startBegins(_ kind: HoldingKind, cancel: @escaping () -> Void) {
            self.cancelStart = cancel
            self.startedKind = kind
            self.cancellation = nil
        }

        func cancelStart(because failure: Problem) {
            guard let cancelStart = self.cancelStart else { return }
            if self.cancellation == nil { self.cancellation = failure }
            cancelStart()
        }
    }

    typealias Server = JSONLinesServer<Checked<DaemonRequest>, DaemonReply>

    let home: WorkspaceHome
    let identity: WorkspaceIdentity
    let log: Logger
    private let version: String
    private let makeEnvironment: EnvironmentMaker
    private let store: InterceptStore
    private let idleTime: TimeAmount
    private let onEnd: () -> Void
    private var slots: [Intercept.Key: Slot] = [:]
    private var server: Server?
    private var clients: [ObjectIdentifier: Client] = [:]
    private var idleTimer: Scheduled<Void>?
    private var idleSince = NIODeadline.now()
    private var wasBusy = false
    private var isEnding = false
    private var isHandedOver = false

    private let clientsAtMost: Int

    /// Clients may use a quarter of the descriptors; tunnels and intercepted connections need the others.
    nonisolated static func clientsAtMost(ofDescriptors limit: Int) -> Int { min(max(limit / 4, 4), 64) }

    private static let logPause = TimeAmount.seconds(5)
    private static let handOverTime = TimeAmount.seconds(3)

    init(
        home: WorkspaceHome,
        identity: WorkspaceIdentity,
        version: String,
        idleTime: TimeAmount,
        clientsAtMost: Int = 64,
        log: Logger,
        makeEnvironment: @escaping EnvironmentMaker,
        onEnd: @escaping () -> Void
    ) {
        self.home = home
        self.identity = identity
        self.version = version
        self.idleTime = idleTime
        self.clientsAtMost = clientsAtMost
        self.log = log
        self.makeEnvironment = makeEnvironment
        self.store = InterceptStore(path: home.intercepts)
        self.onEnd = onEnd
    }

    // MARK: Beginning and ending

    func start() async throws {
        self.restore()
        let socket = try LocalSocket.listen(at: self.home.daemonSocket)
        let server = Server(
            eventLoop: DaemonLoop.eventLoop,
            connectionsAtMost: self.clientsAtMost,
            // Root may do anything anyway.
            mayConnect: { [unowned self] user in
                (user == geteuid() || user == 0) && self.clients.count < self.clientsAtMost && !self.isEnding
            },
            onConnect: { [unowned self] connection in self.connected(connection) },
            onRequest: { [unowned self] request, connection in
                self.clients[ObjectIdentifier(connection)]?.take(request)
            }
        )
        self.server = server
        try await server.start(on: socket).get()
        self.cutLogNowAndThen()
        self.log.info("ready", metadata: ["version": "\(self.version)", "key": "\(self.identity.member.publicKey)"])
        self.judgeIdle()
    }

    /// Restores the intercepts of the previous daemon: they were either handed over to this one, or lost in a crash.
    private func restore() {
        let stored: StoredIntercepts
        do {
            stored = try StoredIntercepts.read(self.home.intercepts)
        } catch {
            return self.log.error("\(error)")
        }
        for problem in stored.leftOut { self.log.error("an intercept of before is left out: \(problem)") }
        for one in stored.intercepts {
            do {
                let goesOn = stored.areHandedOver && one.wasLost != true
                let intercept = Intercept(
                    one.request,
                    targets: try LocalTargets(one.request),
                    environment: try self.makeEnvironment(one.request.environment),
                    identity: self.identity.of(one.request.service, in: one.request.environment),
                    machine: goesOn ? .resuming : .abandoned,
                    generation: one.generation,
                    since: one.since,
                    log: self.log
                )
                intercept.mayBeClaimed = true
                self.install(intercept, in: self.slot(for: intercept.key))
                if goesOn { intercept.lookAgain(in: .zero) }
            } catch {
                self.log.error(
                    "an intercept of before is left out: \(error)",
                    metadata: ["service": "\(one.request.service)"]
                )
            }
        }
        // The hand-over counts once: if this daemon crashes, the next one must find its intercepts lost.
        if stored.areHandedOver { Task { await self.persist() } }
    }

    /// The daemon may live for weeks.
    private func cutLogNowAndThen() {
        DaemonLoop.eventLoop.assumeIsolated().scheduleTask(in: Self.logPause) { [weak self] () -> Void in
            guard let self, !self.isEnding else { return }
            LogFiles.cutIfLarge(
                self.home.daemonLog,
                mode: 0o600,
                limit: WorkspaceHome.logAtMost,
                followsFolders: true
            )
            self.cutLogNowAndThen()
        }
    }

    /// Stops all intercepts, so that the originals answer again, and ends.
    func shutDown() async {
        guard self.beginEnding() else { return }
        let held = self.slots.values.compactMap { $0.intercept }.filter { !$0.machine.isAbandoned }
        let stops = held.map { intercept in
            let request = StopRequest(environment: intercept.request.environment, service: intercept.service)
            return Task { _ = try? await self.stop(request) { _ in } }
        }
        for stop in stops { await stop.value }
        await self.persist()
        self.end()
    }

    /// Leaves all intercepts to the next daemon, and ends.
    func handOver() async {
        guard self.beginEnding() else { return }
        let failure = Problem(.failed, "another version of kl replaces the workspace daemon", "Try again.")
        for slot in self.slots.values { slot.cancelStart(because: failure) }
        let intercepts = self.slots.values.compactMap { $0.intercept }
        let stored = self.stored(areHandedOver: true)
        let ends = intercepts.filter(\.isLive).map { intercept in
            Task { await intercept.handOver(within: Self.handOverTime) }
        }
        for end in ends { await end.value }
        // A stop that was under way ends now, too, and must not overwrite what is stored.
        self.isHandedOver = true
        await self.store.write(stored, log: self.log)
    }

    private func beginEnding() -> Bool {
        guard !self.isEnding else { return false }
        self.isEnding = true
        self.idleTimer?.cancel()
        return true
    }

    /// Remove the socket first: a client that finds none waits for the lock, which is released when the process exits.
    func end() {
        unlink(self.home.daemonSocket)
        self.server?.close()
        self.log.info("ended")
        // Replies that were sent must still be written.
        DaemonLoop.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) { self.onEnd() }
    }

    /// A daemon without intercepts, requests and clients ends after a while.
    func judgeIdle() {
        self.idleTimer?.cancel()
        self.idleTimer = nil
        self.slots = self.slots.filter { $0.value.intercept != nil || $0.value.waiting > 0 }
        let isBusy = self.slots.values.contains { $0.waiting > 0 || $0.intercept?.isLive ?? false }
        if isBusy || self.wasBusy { self.idleSince = .now() }
        self.wasBusy = isBusy
        // A client that only asks for the status keeps the daemon alive while it is connected, but doesn't restart the idle
        // time.
        guard !isBusy, self.clients.isEmpty, !self.isEnding else { return }
        let until = max(self.idleSince + self.idleTime, .now())
        self.idleTimer = DaemonLoop.eventLoop.assumeIsolated().scheduleTask(deadline: until) { [weak self] () -> Void in
            guard let self, self.beginEnding() else { return }
            self.end()
        }
    }

    // MARK: Clients

    private func connected(_ connection: Server.Connection) {
        let client = Client(connection, daemon: self)
        self.clients[ObjectIdentifier(connection)] = client
        let name = ObjectIdentifier(connection)
        connection.onClose = { [weak self, weak client] in
            client?.closed()
            self?.clients[name] = nil
            self?.judgeIdle()
        }
        connection.send(.hello(version: self.version, pid: getpid()))
        self.judgeIdle()
    }

    private func tell(_ status: InterceptStatus) {
        for client in self.clients.values { client.tell(status) }
    }

    // MARK: Requests

    var intercepts: [InterceptStatus] {
        self.slots.values.compactMap { $0.intercept?.status }
            .sorted { ($0.environment.name, $0.service) < ($1.environment.name, $1.service) }
    }

    private func slot(for key: Intercept.Key) -> Slot {
        if let slot = self.slots[key] { return slot }
        let slot = Slot()
        self.slots[key] = slot
        return slot
    }

    private func install(_ intercept: Intercept, in slot: Slot) {
        slot.intercept = intercept
        var last: InterceptStatus?
        intercept.onChange = { [weak self, weak intercept] in
            guard let self, let status = intercept?.status, status != last else { return }
            last = status
            self.tell(status)
            if intercept?.isLive == false { self.judgeIdle() }
        }
        intercept.onGone = { [weak self, weak slot] in
            guard let self, let slot else { return }
            self.remove(from: slot)
            Task { await self.persist() }
        }
    }

    private func remove(from slot: Slot) {
        guard let intercept = slot.intercept else { return }
        intercept.dispose()
        slot.intercept = nil
        for client in self.clients.values { client.ended(intercept.service) }
        self.judgeIdle()
    }

    private func inTurn<Result>(
        _ key: Intercept.Key,
        cancelsStart: Bool,
        _ body: (Slot) async throws -> Result
    ) async throws -> Result {
        let slot = self.slot(for: key)
        slot.waiting += 1
        defer {
            slot.waiting -= 1
            self.judgeIdle()
        }
        if cancelsStart {
            slot.cancelStart(
                because: Problem(
                    .failed,
                    "your own 'kl intercept stop' ended this start of '\(key.service)' before it was done",
                    "Start it again: kl intercept start \(key.service)"
                )
            )
        }
        guard await slot.turnstile.enter() else { throw CancellationError() }
        defer { slot.turnstile.leave() }
        return try await body(slot)
    }

    func start(
        _ request: StartRequest,
        _ variables: [String: String]? = nil,
        cancel: @escaping @DaemonLoop () -> Void,
        _ progress: @escaping Progress
    ) async throws -> InterceptStatus {
        let environment = try self.makeEnvironment(request.environment)
        if let variables { await environment.use(variables: variables) }
        let targets = try await Self.resolve(request)
        let key = Intercept.Key(request.environment, request.service)
        if let before = self.slots[key]?.intercept, before.machine.phase == .stopping {
            progress(Step(.waitsForDrain))
        }
        return try await self.inTurn(key, cancelsStart: false) { slot in
            guard !self.isEnding else { throw Problem(.failed, "the workspace daemon is ending", "Try again.") }
            slot.startBegins(request.kind, cancel: cancel)
            defer { slot.cancelStart = nil }
            return try await self.start(request, targets, in: slot, of: environment, progress)
        }
    }

    /// Called in the slot's turn. If this daemon cancels the start, the error says why.
    private func start(
        _ request: StartRequest,
        _ targets: LocalTargets,
        in slot: Slot,
        of environment: any Environment,
        _ progress: @escaping Progress
    ) async throws -> InterceptStatus {
        do {
            if let intercept = slot.intercept, intercept.isLive {
                try await intercept.adjust(to: request, targets: targets, progress)
                await self.persist()
                try Task.checkCancellation()
                try intercept.checkLive()
                return intercept.status
            }
            await slot.intercept?.hasLeft()
            self.remove(from: slot)
            let intercept = Intercept(
                request,
                targets: targets,
                environment: environment,
                identity: self.identity.of(request.service, in: request.environment),
                log: self.log
            )
            self.install(intercept, in: slot)
            do {
                try await intercept.begin(progress)
                await self.persist()
                try Task.checkCancellation()
                try intercept.checkLive()
            } catch {
                // In a task of its own, since the current one may be cancelled.
                await Task {
                    await intercept.rollBack()
                    if slot.intercept === intercept { slot.intercept = nil }
                    await self.persist()
                }.value
                throw error
            }
            return intercept.status
        } catch is CancellationError {
            if let failure = slot.cancellation { throw failure }
            throw CancellationError()
        }
    }

    func stop(
        _ request: StopRequest,
        _ variables: [String: String]? = nil,
        _ progress: @escaping Progress
    ) async throws -> InterceptStatus {
        // An environment that is gone can't be made; the intercept is stopped all the same.
        if let variables { try? await self.makeEnvironment(request.environment).use(variables: variables) }
        let key = Intercept.Key(request.environment, request.service)
        let started = self.slots[key].flatMap { $0.cancelStart == nil ? nil : $0.startedKind }
        return try await self.inTurn(key, cancelsStart: true) { slot in
            let intercept: Intercept
            if let held = slot.intercept {
                intercept = held
            } else if let claimed = try await self.claimed(request) {
                intercept = claimed
                self.install(intercept, in: slot)
            } else if let started {
                // The cancelled start has undone its work.
                progress(Step(started == .mirror ? .copiesEnded : .originalAnswers()))
                var status = InterceptStatus(
                    environment: request.environment,
                    service: request.service,
                    phase: .stopping,
                    since: UTCTime.now.rfc3339
                )
                status.kind = started
                return status
            } else {
                throw Problem.noSuchIntercept(of: request.service)
            }
            // In a task of its own: even if the client has gone, the stop is finished and the claim released.
            return try await Task {
                var failure: (any Error)?
                do {
                    try await intercept.stop(drainSeconds: request.drainSeconds, progress)
                } catch {
                    failure = error
                }
                await intercept.hasLeft()
                let status = intercept.status
                if slot.intercept === intercept { self.remove(from: slot) }
                await self.persist()
                if let failure { throw failure }
                return status
            }.value
        }
    }

    /// A claim of our own key that this daemon doesn't know: an earlier daemon crashed.
    private func claimed(_ request: StopRequest) async throws -> Intercept? {
        let environment = try self.makeEnvironment(request.environment)
        let identity = self.identity.of(request.service, in: request.environment)
        let own = identity.member.publicKey
        let records: [InterceptRecord]
        do {
            records = try await environment.intercepts()
        } catch let error as Problem where error.code == .notUp {
            records = []
        }
        guard let record = records.first(where: { $0.service == request.service && $0.holder.publicKey == own }) else {
            return nil
        }
        let intercept = Intercept(
            StartRequest(claimOf: request.service, in: request.environment, as: record.kind),
            targets: try LocalTargets([]),
            environment: environment,
            identity: identity,
            machine: .abandoned,
            since: record.since,
            log: self.log
        )
        intercept.portsOnRecord = record.ports.map(\.port)
        return intercept
    }

    /// Looking up host names may take a while, so it is done off the event loop.
    @concurrent
    private nonisolated static func resolve(_ request: StartRequest) async throws -> LocalTargets {
        try LocalTargets(request)
    }

    // MARK: Storage

    private func stored(areHandedOver: Bool = false) -> StoredIntercepts {
        let kept = self.slots.values.compactMap { $0.intercept }
            .filter { $0.machine.phase == .active || $0.machine.phase == .degraded }
            .sorted { ($0.key.location, $0.service) < ($1.key.location, $1.service) }
        return StoredIntercepts(
            areHandedOver: areHandedOver,
            intercepts: kept.map {
                .init(
                    request: $0.request,
                    generation: $0.generation,
                    since: $0.since,
                    wasLost: $0.machine.isAbandoned ? true : nil
                )
            }
        )
    }

    private func persist() async {
        guard !self.isHandedOver else { return }
        await self.store.write(self.stored(), log: self.log)
    }
}
