import Environments
import InterceptModel

/// What an engine runs of a project, or in a network, at one moment.
struct DockerProject: Equatable, Sendable {
    let selection: DockerPlace.Selection
    let services: [DockerService]
    /// All workspaces' sidecars for these services.
    var sidecars: [DockerSidecar]
    /// The ids of containers that were asked to end.
    var ending: Set<String> = []

    init(_ selection: DockerPlace.Selection, _ containers: [DockerContainer], _ others: [DockerRows.Row] = []) {
        self.selection = selection
        let services = DockerService.all(in: containers, of: selection, others)
        self.services = services
        let targets = Set(services.flatMap(\.replicas).map(\.container.id))
        self.sidecars = containers.compactMap { DockerSidecar($0) }
            .filter { sidecar in
                targets.contains(sidecar.target) || selection == .project(sidecar.project)
                    || services.contains { $0.project == sidecar.project && $0.label == sidecar.service }
            }
            .sorted { ($0.service, $0.replica, $0.name) < ($1.service, $1.replica, $1.name) }
    }

    func service(_ name: String) -> DockerService? { self.services.first { $0.name == name } }

    /// The service and replica to which a container belongs.
    func replica(_ id: String) -> (DockerService, DockerService.Replica)? {
        for service in self.services {
            if let replica = service.replicas.first(where: { $0.container.id == id }) { return (service, replica) }
        }
        return nil
    }

    /// Whether the container is a service's or a sidecar's of this project.
    func has(_ id: String) -> Bool { self.replica(id) != nil || self.sidecars.contains { $0.id == id } }

    /// Also for a service that no longer exists: the sidecars' labels name it.
    func sidecars(of name: String) -> [DockerSidecar] {
        guard let service = self.service(name) else { return self.sidecars.filter { $0.service == name } }
        let targets = Set(service.replicas.map(\.container.id))
        return self.sidecars.filter {
            ($0.project == service.project && $0.service == service.label) || targets.contains($0.target)
        }
    }

    /// The first replica's sidecar, whose answer decides which workspace gets a port. The labels of an earlier version's
    /// sidecar say which workspace holds the service.
    func record(of name: String) -> DockerSidecar? {
        self.sidecars(of: name).first { $0.isAlive && $0.isNamedAsMade }
    }

    /// Existing services first, then services of which only sidecars are left.
    var interceptedServices: [String] {
        let known = self.services.map(\.name).filter { self.record(of: $0) != nil }
        let lost = self.sidecars.filter { sidecar in
            !self.services.contains { $0.project == sidecar.project && $0.label == sidecar.service }
        }
        return known + Set(lost.map(\.service)).subtracting(known).sorted()
    }
}

/// The replicas of a compose service, or one container by itself.
struct DockerService: Equatable, Sendable {
    struct Replica: Equatable, Sendable {
        /// From 1, as compose numbers them.
        var number: Int
        var container: DockerContainer

        /// Whether a sidecar can join its network.
        var isUsable: Bool { self.container.isRunning && self.container.hasOwnNetwork }
    }

    /// The name that people use.
    var name: String
    /// The values of its sidecars' labels.
    var project: String
    var label: String
    var replicas: [Replica]
    /// If its containers share another container's network: the owner of that network.
    var sharesWith: NetworkOwner?

    enum NetworkOwner: Equatable, Sendable {
        case service(String)
        /// A container of this engine outside of this environment; the project is empty if it has none.
        case container(String, project: String)
        case gone
    }

    static let projectLabel = "com.docker.compose.project"
    static let serviceLabel = "com.docker.compose.service"
    static let numberLabel = "com.docker.compose.container-number"
    static let oneOffLabel = "com.docker.compose.oneoff"

    private struct Identity: Hashable {
        var project: String
        var label: String
    }

    /// Sorted by name.
    static func all(
        in containers: [DockerContainer],
        of selection: DockerPlace.Selection,
        _ others: [DockerRows.Row] = []
    ) -> [DockerService] {
        var groups: [Identity: [DockerContainer]] = [:]
        for container in containers where container.label(SidecarLabel.key) == nil {
            guard let identity = Self.identity(of: container, selection) else { continue }
            groups[identity, default: []].append(container)
        }
        let counts = Dictionary(groups.keys.map { ($0.label, 1) }, uniquingKeysWith: +)
        func name(of identity: Identity) -> String {
            counts[identity.label] == 1 ? identity.label : "\(identity.project).\(identity.label)"
        }
        func owner(_ id: String) -> NetworkOwner {
            let container = containers.first { $0.id == id }
            if let identity = container.flatMap({ Self.identity(of: $0, selection) }) {
                return .service(name(of: identity))
            }
            return others.first { $0.id == id }.map { .container($0.name, project: $0.project) } ?? .gone
        }
        return groups.map { identity, members in
            DockerService(
                name: name(of: identity),
                project: identity.project,
                label: identity.label,
                replicas: Self.numbered(members),
                sharesWith: members.lazy.compactMap(\.sharedWith).first.map { owner($0) }
            )
        }
        .sorted { $0.name < $1.name }
    }

    /// Nil: the container doesn't belong to this environment, is a one-off command (`compose run`), or has labels that
    /// can't be names.
    private static func identity(of container: DockerContainer, _ selection: DockerPlace.Selection) -> Identity? {
        guard container.label(Self.oneOffLabel)?.lowercased() != "true" else { return nil }
        let project = container.label(Self.projectLabel).flatMap { DockerPlace.isSoundName($0) ? $0 : nil }
        let service = container.label(Self.serviceLabel).flatMap { DockerPlace.isSoundName($0) ? $0 : nil }
        switch selection {
        case .project(let name):
            guard project == name, let service else { return nil }
            return Identity(project: name, label: service)
        case .network(let name):
            guard container.networks?[name] != nil else { return nil }
            guard let project, let service else { return Identity(project: name, label: container.name) }
            return Identity(project: project, label: service)
        }
    }

    /// Assigns each number once, whatever the labels say.
    private static func numbered(_ containers: [DockerContainer]) -> [Replica] {
        var taken: Set<Int> = []
        let wanted = containers.map { container in
            (
                container,
                container.label(Self.numberLabel).flatMap { Int($0) }.flatMap { (1...99_999).contains($0) ? $0 : nil }
            )
        }
        // If two have the same number, the running one keeps it.
        .sorted {
            ($0.1 ?? .max, $0.0.isRunning ? 0 : 1, $0.0.name) < ($1.1 ?? .max, $1.0.isRunning ? 0 : 1, $1.0.name)
        }
        return wanted.map { container, number in
            var number = number ?? 1
            while !taken.insert(number).inserted { number += 1 }
            return Replica(number: number, container: container)
        }
        .sorted { $0.number < $1.number }
    }

    var usable: [Replica] { self.replicas.filter(\.isUsable) }

    /// The name of a replica's sidecar, as people see it.
    func sidecarName(_ number: Int) -> String { "\(self.name)-\(number)" }

    var ports: [ServicePort] { Set(self.replicas.flatMap(\.container.servicePorts)).sorted() }

    // MARK: As people see it

    var service: Service {
        let (state, reason) = self.stateAndReason
        var service = Service(
            name: self.name,
            state: state,
            reason: reason,
            ports: self.ports.map {
                .init(published: $0.number, target: $0.number, transport: $0.transport)
            },
            replicas: self.replicas.count
        )
        service.refusal = self.refusal
        service.mayHaveOtherPorts = true
        let places = Set(self.replicas.flatMap(\.container.places)).sorted()
        service.places = places.isEmpty ? nil : places
        service.publications = self.replicas.flatMap(\.container.publications)
        service.containers = self.replicas.flatMap { [$0.container.name, $0.container.id] }
        return service
    }

    private var stateAndReason: (Service.State, String?) {
        let running = self.replicas.filter { $0.container.isRunning }
        guard let first = running.first else {
            guard let worst = self.replicas.first(where: { $0.container.status == "restarting" }) ?? self.replicas.first
            else {
                return (.stopped, "it has no container")
            }
            return (worst.container.status == "restarting" ? .restarting : .stopped, worst.container.whyNot)
        }
        if running.count < self.replicas.count {
            let other = self.replicas.first { !$0.container.isRunning }
            let why = other.flatMap(\.container.whyNot).map { ": one \($0)" } ?? ""
            return (
                .running,
                "\(running.count) of \(self.replicas.count) replicas run\(running.count == 1 ? "s" : "")\(why)"
            )
        }
        if running.contains(where: { $0.container.health == "unhealthy" }) {
            return (.running, "unhealthy: its health check fails")
        }
        if running.allSatisfy({ $0.container.health == "starting" }), first.container.health == "starting" {
            return (.starting, "its health check hasn't passed yet")
        }
        return (.running, nil)
    }

    /// Why no sidecar can join its network, and what to do.
    var refusal: String? {
        guard self.usable.isEmpty else { return nil }
        let name = self.name.quoted
        let running = self.replicas.filter { $0.container.isRunning }
        if let first = running.first {
            switch first.container.mode {
            case "host":
                return
                    "\(name) uses the network of the engine's machine (network_mode: host), where its ports aren't its own."
                    + " Give it a network of the project, then start its container again."
            case "none":
                return "\(name) has no network (network_mode: none), so no client connects to it. Give it a network of"
                    + " the project, then start its container again."
            default: return self.sharedNetworkRefusal
            }
        }
        guard let first = self.replicas.first else {
            return "\(name) has no container. Start it: docker compose up --detach \(self.label)"
        }
        switch first.container.status {
        case "paused":
            return "\(name) is paused, so nothing of it answers. Go on with it: docker unpause \(first.container.name)"
        case "restarting":
            return "\(name) is restarting, again and again: it \(first.container.exitText). Look why, then try again:"
                + " docker logs \(first.container.name)"
        default:
            return "\(name) doesn't run: it \(first.container.whyNot ?? first.container.status.printable). Start it:"
                + " docker start \(first.container.name)"
        }
    }

    private var sharedNetworkRefusal: String {
        let name = self.name.quoted
        switch self.sharesWith {
        case .service(let other):
            return
                "\(name) shares the network of \(other.quoted) (network_mode), where its ports are. Intercept that"
                + " one: kl intercept start \(other.shellQuoted)"
        case .container(let other, let project) where DockerPlace.isSoundName(project):
            return
                "\(name) shares the network of container \(other.quoted) (network_mode), which is of another project."
                + " Connect to that one: kl env connect --docker \(project.shellQuoted)"
        case .container(let other, _):
            return "\(name) shares the network of container \(other.quoted) (network_mode), which is of no project."
                + " Connect to a network that it is attached to: kl env connect --docker-network NETWORK"
        case .gone:
            return "\(name) shares the network of a container that is gone (network_mode), so no client reaches it."
                + " Make its own anew: docker compose up --detach --force-recreate \(self.label.shellQuoted)"
        case nil:
            return "\(name) was given a network namespace by its path (network_mode), which may be others' too."
                + " Give it a network of the project, then start its container again."
        }
    }
}

extension DockerContainer {
    fileprivate var exitText: String { "exited with code \(self.exit ?? 0)" }

    /// Why it doesn't run, as a clause; nil if it runs.
    fileprivate var whyNot: String? {
        switch self.status {
        case "running": nil
        case "created": "was never started"
        case "paused": "is paused"
        case "restarting", "exited": self.exitText
        case "removing": "is being removed"
        default: "is \(self.status.printable)"
        }
    }
}
