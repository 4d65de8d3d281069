import Environments
import HostSupport
import InterceptModel
import Synchronization

/// What this process knows of one namespace. Services that are followed are known by watches; everything else is asked for when
/// it is needed.
actor KubernetesModel {
    nonisolated let place: KubernetesPlace
    nonisolated let client: KubernetesClient
    private var listeners: [UInt64: AsyncStream<EnvironmentChange>.Continuation] = [:]
    private var nextListener: UInt64 = 0
    private var followers: [String: ServiceFollower] = [:]

    /// † Changes that a listener hasn't taken yet; older ones are dropped.
    private static let newsAtMost = 64
    /// In a page; and all pages together.
    private static let pageSize = 500
    static let objectsAtMost = 10_000

    private static let all = Mutex<[KubernetesPlace: KubernetesModel]>([:])

    /// All users of an environment in this process share one model.
    static func of(_ place: KubernetesPlace) -> KubernetesModel {
        Self.all.withLock { all in
            if let model = all[place] { return model }
            let model = KubernetesModel(place)
            all[place] = model
            return model
        }
    }

    init(_ place: KubernetesPlace, variables: [String: String] = Spawn.ownEnvironment) {
        self.place = place
        self.client = KubernetesClient(place, variables: variables)
    }

    // MARK: Asking now

    func services() async throws -> [ServiceObject] { try await self.list() }

    /// Nil: there is none of that name.
    func service(_ name: String) async throws -> ServiceObject? {
        guard KubernetesPlace.isSoundName(name) else { return nil }
        do {
            return try await self.client.get(self.client.path("services/\(name)"))
        } catch let error as APIFailure where error.code == 404 {
            return nil
        }
    }

    /// None where the selector is empty.
    func pods(selectedBy selector: [String: String]) async throws -> [Pod] {
        guard !selector.isEmpty else { return [] }
        return try await self.list([("labelSelector", Self.text(of: selector))])
    }

    func pods() async throws -> [Pod] { try await self.list() }

    static func text(of selector: [String: String]) -> String {
        selector.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    }

    /// All pages of a list.
    func list<Object: KubernetesObject>(_ query: [(String, String)] = []) async throws -> [Object] {
        var objects: [Object] = []
        var next: String?
        repeat {
            let page: ObjectList<Object> = try await self.client.get(
                self.client.path(Object.resource),
                query + [("limit", "\(Self.pageSize)")] + (next.map { [("continue", $0)] } ?? [])
            )
            objects += page.items ?? []
            guard objects.count <= Self.objectsAtMost else { throw self.tooMany(Object.resource) }
            next = page.metadata?.continue.flatMap { $0.isEmpty ? nil : $0 }
        } while next != nil
        return objects
    }

    private func tooMany(_ what: String) -> Problem {
        Problem(.failed, "namespace '\(self.place.namespace)' has more than \(Self.objectsAtMost) \(what)")
    }

    // MARK: Following

    /// Begins to watch this Service and the pods that it selects; nothing if that is being done.
    func follow(_ service: String) {
        guard self.followers[service] == nil else { return }
        self.followers[service] = ServiceFollower()
    }

    func unfollow(_ service: String) {
        self.followers[service] = nil
    }

    /// What the watches know if they are in step; otherwise it is read now.
    func followed(_ service: String) async throws -> (ServiceObject, [Pod])? {
        guard let object = try await self.service(service) else { return nil }
        return (object, try await self.pods(selectedBy: object.selector))
    }

    func changes() -> AsyncStream<EnvironmentChange> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: EnvironmentChange.self,
            bufferingPolicy: .bufferingNewest(Self.newsAtMost)
        )
        self.nextListener += 1
        let number = self.nextListener
        self.listeners[number] = continuation
        continuation.onTermination = { [weak self] _ in
            Task { await self?.stopListening(number) }
        }
        return stream
    }

    private func stopListening(_ number: UInt64) {
        self.listeners[number] = nil
        if self.listeners.isEmpty { self.followers = [:] }
    }

    func tell(_ change: EnvironmentChange) {
        for listener in self.listeners.values { listener.yield(change) }
    }
}

struct ServiceFollower {}
