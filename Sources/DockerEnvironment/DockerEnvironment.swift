import Environments
import InterceptModel
import SidecarInterface

/// Services in containers of a Docker engine. Each replica of which a workspace holds ports gets a container with a sidecar in
/// its network, which serves all workspaces and reports its holders. The service's own containers are neither restarted nor
/// changed.
public struct DockerEnvironment: Environment {
    public let reference: EnvironmentReference
    let model: DockerModel

    /// - Throws: the stored reference lacks the engine.
    public init(_ reference: EnvironmentReference) throws(Problem) {
        guard let place = reference.docker else {
            throw Problem(
                .failed,
                "environment \(reference.name.quoted) was written down without its engine",
                "Connect again:" + " kl env connect --docker \(reference.name.shellQuoted)"
            )
        }
        self.reference = reference
        self.model = DockerModel.of(place)
    }

    public var makesSidecars: Bool { true }

    /// A workspace's key is admitted to a sidecar when the workspace claims ports, so there is nothing to announce.
    public func join(_ member: Member) async throws {}

    public func services() async throws -> [Service] {
        let project = try await self.model.project(.recent)
        guard !project.services.isEmpty else { throw self.isNotUp }
        let isHere = self.model.place.engine.isHere
        return project.services.map { service in
            var service = service.service
            // Addresses of another machine's localhost can't be reached from here.
            if !isHere { service.places = nil }
            return service
        }
    }

    public func sidecars(of service: String) async throws -> [SidecarLocation] {
        let project = try await self.model.project(.recent)
        let record = project.record(of: service)
        let sidecars = project.sidecars(of: service).filter {
            $0.isRunning && ($0.admits || $0.holder.publicKey == record?.holder.publicKey)
        }
        return try await self.locations(of: sidecars, project.service(service))
    }

    public func intercepts() async throws -> [InterceptRecord] {
        let project = try await self.model.project(.recent)
        return try await withThrowingTaskGroup { group in
            for name in project.interceptedServices {
                let alive = project.sidecars(of: name).filter { $0.isAlive && $0.isNamedAsMade }
                let service = project.service(name)
                group.addTask { try await self.records(of: name, alive, service) }
            }
            return try await group.reduce(into: []) { $0 += $1 }.sorted { $0.isBefore($1) }
        }
    }

    public func changes() async -> AsyncStream<EnvironmentChange> { await self.model.changes() }

    public func claim(_ record: InterceptRecord, options: SidecarOptions) -> any ServiceClaim {
        DockerClaim(self, record, options)
    }

    // MARK: Parts

    var isNotUp: Problem {
        let mend =
            switch self.model.place.selection {
            case .project(let name): "Start it: docker compose --project-name \(name.shellQuoted) up --detach"
            case .network: "Start some, then try again."
            }
        return Problem(
            .notUp,
            "environment \(self.reference.name.quoted) has no containers on the Docker engine at"
                + " \(self.model.place.engine.name.printable). \(mend)"
        )
    }

    func find(_ name: String, in project: DockerProject) throws(Problem) -> DockerService {
        guard !project.services.isEmpty else { throw self.isNotUp }
        if let service = project.service(name) { return service }
        if let owner = project.services.first(where: { $0.service.hasContainer(name) }) {
            throw Problem(
                .noSuchService,
                "\(name.quoted) is a container of service \(owner.name.quoted)",
                "Name the service in its place."
            )
        }
        let suggestion = Suggestion.sentence(for: name, among: project.services.map(\.name))
        let mend = suggestion.isEmpty ? " See what is there: kl env status" : "\(suggestion) (kl env status lists them)"
        throw Problem(
            .noSuchService,
            "service \(name.quoted) isn't in environment \(self.reference.name.quoted).\(mend)"
        )
    }

    /// By force, so that a hanging container goes, too.
    func remove(_ sidecars: [DockerSidecar]) async throws {
        guard !sidecars.isEmpty else { return }
        let result = try await self.model.client.run(
            ["rm", "--force"] + sidecars.map(\.id),
            within: DockerClient.longPatience
        )
        await self.model.forget(sidecars)
        let small = result.errors.lowercased()
        let isGoing = DockerClient.isMissing(small) || small.contains("is already in progress")
        guard result.code == 0 || (result.code == 1 && isGoing) else { throw self.model.client.error(result) }
    }

    /// Only sidecars that have reported where they listen are included.
    func locations(of sidecars: [DockerSidecar], _ service: DockerService?) async throws -> [SidecarLocation] {
        try await withThrowingTaskGroup { group in
            for sidecar in sidecars {
                group.addTask { () -> (Int, SidecarLocation)? in
                    guard let words = try await self.model.words(of: sidecar) else { return nil }
                    return (sidecar.replica, self.location(of: sidecar, words, service))
                }
            }
            var found: [(Int, SidecarLocation)] = []
            for try await one in group { if let one { found.append(one) } }
            return found.sorted { $0.0 < $1.0 }.map(\.1)
        }
    }

    func location(of sidecar: DockerSidecar, _ words: SidecarWords, _ service: DockerService?) -> SidecarLocation {
        let target = service?.target(of: sidecar)
        func endpoint(_ port: UInt16) -> String? {
            target?.address.map { Endpoint(host: $0, port: port).description }
        }
        // Dial by port number, since during a take-over two sidecars share one network.
        let dial = ["exec", "--interactive", sidecar.name, "/kl-sidecar", "dial", "--to", "127.0.0.1:\(words.port)"]
        var location = SidecarLocation(
            name: service?.sidecarName(sidecar.replica) ?? "\(sidecar.service)-\(sidecar.replica)",
            publicKey: words.publicKey,
            tcp: endpoint(words.port) ?? "",
            udp: words.datagramPort.flatMap { endpoint($0) },
            command: self.model.place.engine.words + dial,
            listens: sidecar.ports.compactMap { port in endpoint(port.number).map { $0 + port.transport.suffix } }
        )
        location.originalSees = Self.seen(by: words, at: target)
        return location
    }

    /// In a container's network the sidecar has the container's address.
    static func seen(by words: SidecarWords, at target: DockerContainer?) -> SeenAddress? {
        var seen = words.originalSees
        if seen?.whose == .sidecar { seen?.address = target?.address }
        return seen
    }
}

extension DockerService {
    /// The container whose network the sidecar shares.
    func target(of sidecar: DockerSidecar) -> DockerContainer? {
        self.replicas.first { $0.container.id == sidecar.target }?.container
    }
}
