import Environments
import HostSupport
import InterceptModel
import Synchronization

/// What this process knows of one namespace. Services that are followed are known by watches; everything else is asked for when
/// it is needed.
actor KubernetesModel {
    nonisolated let place: KubernetesPlace
    nonisolated let client: KubernetesClient
    nonisolated let sidecars = SidecarKeeper()
    private var listeners = ChangeListeners()
    private var followers: [String: ServiceFollower] = [:]

    /// † How long an answer may wait for watches that have just begun.
    private static let beginsWithin = Duration.seconds(3)

    private static let all = Mutex<[KubernetesPlace: KubernetesModel]>([:])

    /// All users of an environment in this process share one model, and so one `kubectl`.
    static func of(_ place: KubernetesPlace) -> KubernetesModel {
        let place = place.cluster
        return Self.all.withLock { all in
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

    func services() async throws -> [ServiceObject] { try await self.visibleServices().objects }

    /// The namespace's Services. Where the user may not list them, those that the user's rights have by name; then `isWhole` is
    /// false.
    func visibleServices() async throws -> (objects: [ServiceObject], isWhole: Bool) {
        do {
            let all: [ServiceObject] = try await self.client.list().objects
            return (all.filter { !TunnelService.isOurs($0) }, true)
        } catch let error as APIFailure where error.code == 403 {
            var objects: [ServiceObject] = []
            for name in try await KubernetesFacts.namedServices(self.client) {
                if let service = try await self.service(name) { objects.append(service) }
            }
            guard !objects.isEmpty else { throw error }
            return (objects, false)
        }
    }

    func pods() async throws -> [Pod] { try await self.client.list().objects }

    /// None where the selector is empty.
    func pods(selectedBy selector: [String: String]) async throws -> [Pod] {
        guard !selector.isEmpty else { return [] }
        return try await self.client.list([("labelSelector", Self.text(of: selector))]).objects
    }

    /// A label selector as a query has it.
    static func text(of selector: [String: String]) -> String {
        selector.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    }

    /// A Service, or what stands for `pod/NAME`. Nil: there is none of that name.
    func service(_ name: String) async throws -> ServiceObject? {
        if let pod = ServiceObject.podName(name) { return try await self.pod(pod).map { ServiceObject(of: $0) } }
        return try await self.object(name)
    }

    func pod(_ name: String) async throws -> Pod? { try await self.object(name) }

    private func object<Object: KubernetesObject>(_ name: String) async throws -> Object? {
        // It becomes a part of a path.
        guard KubernetesPlace.isSoundName(name) else { return nil }
        do {
            return try await self.client.get(self.client.path("\(Object.resource)/\(name)"))
        } catch let error as APIFailure where error.code == 404 {
            return nil
        }
    }

    /// A Service and the pods that its selector matches, read now. Nil: there is no such Service.
    func read(_ name: String) async throws -> (service: ServiceObject, pods: [Pod])? {
        if let pod = ServiceObject.podName(name) {
            return try await self.pod(pod).map { (ServiceObject(of: $0), [$0]) }
        }
        guard let service = try await self.service(name) else { return nil }
        return (service, try await self.pods(selectedBy: service.selector))
    }

    // MARK: Following

    /// Begins to watch this Service and the pods that it selects; nothing if that is being done. Each change of them is told to
    /// those who listen to `changes()`.
    func follow(_ name: String) {
        guard self.followers[name] == nil, KubernetesPlace.isSoundName(ServiceObject.podName(name) ?? name) else {
            return
        }
        let follower = ServiceFollower(name, self.client) { [weak self] in await self?.tell(.any) }
        self.followers[name] = follower
        Task { await follower.start() }
    }

    func unfollow(_ name: String) {
        guard let follower = self.followers.removeValue(forKey: name) else { return }
        Task { await follower.stop() }
    }

    /// What the watches know if they are in step; otherwise it is read now. Nil: there is no such Service.
    ///
    /// - Throws: also where reading works and watching is forbidden, since changes would be missed.
    func followed(_ name: String) async throws -> (service: ServiceObject, pods: [Pod])? {
        guard let follower = self.followers[name] else { return try await self.read(name) }
        switch await follower.answer(within: Self.beginsWithin) {
        case .known(let known): return known
        case .unknown(let failure):
            if let failure, failure.code == 403 { throw failure }
            return try await self.read(name)
        }
    }

    func changes() -> AsyncStream<EnvironmentChange> {
        self.listeners.add { [weak self] number in Task { await self?.stopListening(number) } }
    }

    private func stopListening(_ number: UInt64) {
        self.listeners.remove(number)
        guard self.listeners.isEmpty else { return }
        for name in Array(self.followers.keys) { self.unfollow(name) }
    }

    func tell(_ change: EnvironmentChange) {
        self.listeners.tell(change)
    }
}
