import Environments
import InterceptModel

/// Keeps objects of one kind in step with the API server until it is cancelled: any end of a watch, however it looks, means that
/// changes may have been missed, so all is read again. With API servers, and the proxy in between, a watch ends cleanly after its
/// time, when the API server is killed and when it has told a version too old; so its end says nothing.
actor ObjectWatch<Object: KubernetesObject> {
    private let client: KubernetesClient
    private let query: [(String, String)]
    private let tell: @Sendable (Snapshot) async -> Void
    private var watched = WatchedObjects<Object>()
    private var heardAt = ContinuousClock.now
    private var failure: APIFailure?

    /// What is known at one moment.
    struct Snapshot: Sendable {
        /// Nil: it isn't in step.
        var objects: [Object]?
        /// Why it isn't, where that is known.
        var failure: APIFailure?
    }

    /// In seconds, and by the server: then it ends the watch, and all is read anew.
    private static var life: ClosedRange<Int> { 540...660 }
    /// † API servers send a bookmark about once a minute, so a watch that says nothing for this long is dead.
    private static var silence: Duration { .seconds(150) }
    /// † How long the objects that there are may take to come. Servers that don't know `sendInitialEvents` never say that
    /// these were all.
    private static var firstWithin: Duration { .seconds(10) }
    private static var look: Duration { .seconds(1) }

    /// - Parameter tell: called after each change, and when the objects are in step again or no longer.
    init(_ client: KubernetesClient, _ query: [(String, String)], tell: @escaping @Sendable (Snapshot) async -> Void) {
        self.client = client
        self.query = query
        self.tell = tell
    }

    private func tellAll() async {
        let objects = self.watched.isInStep ? Array(self.watched.objects.values) : nil
        await self.tell(Snapshot(objects: objects, failure: self.failure))
    }

    func run() async {
        var backoff = Backoff([100, 500, 1_000, 2_000, 5_000])
        while !Task.isCancelled {
            let began = ContinuousClock.now
            do {
                try await self.watchOnce()
                self.failure = nil
            } catch {
                guard !Task.isCancelled else { return }
                self.failure =
                    error as? APIFailure ?? APIFailure(code: 0, reason: "Failed", message: "\(error)")
            }
            self.watched.end()
            await self.tellAll()
            let life = (ContinuousClock.now - began).components
            let delay = backoff.next(afterLifeOf: life.seconds * 1_000)
            try? await Task.sleep(for: .milliseconds(delay))
        }
    }

    private func watchOnce() async throws {
        self.heardAt = .now
        var query = self.query
        if await self.client.knowsInitialEvents {
            self.watched.begin()
            query += [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]
        } else {
            let page: (objects: [Object], resourceVersion: String?) = try await self.client.list(self.query)
            self.watched.begin(after: page.objects, resourceVersion: page.resourceVersion)
            await self.nowInStep()
            query += page.resourceVersion.map { [("resourceVersion", $0)] } ?? []
        }
        query += [
            ("watch", "1"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", "\(Int.random(in: Self.life))"),
        ]
        do {
            try await self.follow(query)
        } catch let error as APIFailure where self.watched.isComing && error.saysNoInitialEvents {
            await self.client.hasNoInitialEvents()
        }
    }

    private func follow(_ query: [(String, String)]) async throws {
        let path = self.client.path(Object.resource)
        try await withThrowingTaskGroup(of: Void.self) { group in
            defer { group.cancelAll() }
            group.addTask {
                try await self.client.watch(path, query) { try await self.hear($0) }
            }
            group.addTask { try await self.throwWhenSilent() }
            try await group.next()
        }
    }

    private func throwWhenSilent() async throws {
        while true {
            try await Task.sleep(for: Self.look)
            let silence = ContinuousClock.now - self.heardAt
            if self.watched.isComing, silence > Self.firstWithin { throw APIFailure.noInitialEvents }
            if silence > Self.silence { throw APIFailure.late("a watch says nothing") }
        }
    }

    private func hear(_ line: ArraySlice<UInt8>) async throws {
        self.heardAt = .now
        switch try self.watched.hear(line) {
        case .nothing: break
        case .inStep: await self.nowInStep()
        case .changed: await self.tellAll()
        }
    }

    private func nowInStep() async {
        self.failure = nil
        await self.tellAll()
    }
}
