import Environments
import InterceptModel

/// Services as people see them, made of the API's objects.
struct KubernetesServices {
    private let objects: [ServiceObject]
    private let pods: [Pod]

    /// † Pods without a Service that are listed; more can be named.
    private static let bareAtMost = 100

    init(_ objects: [ServiceObject], _ pods: [Pod]) {
        self.objects = objects
        self.pods = pods.filter { !$0.isFinished }
    }

    /// The namespace's Services, and as `pod/NAME` the pods that none of them selects and that declare ports.
    var all: [Service] {
        let services = self.objects.sorted { $0.name < $1.name }
        let selectors = services.map(\.selector)
        let bare = self.pods.filter { pod in
            !pod.isOnHostNetwork && !pod.declaredPorts.isEmpty && !selectors.contains { pod.isSelected(by: $0) }
        }
        return services.map { service in
            Self.service(service, self.pods.filter { $0.isSelected(by: service.selector) })
        }
            + bare.sorted { $0.name < $1.name }.prefix(Self.bareAtMost).map {
                Self.service(ServiceObject(of: $0), [$0])
            }
    }

    static func service(_ object: ServiceObject, _ pods: [Pod]) -> Service {
        let serving = pods.filter(\.isServing)
        let (state, reason) = Self.state(of: pods, serving)
        let named = (object.spec?.ports ?? []).filter { $0.transport != nil }
        let ports = named.compactMap { port -> Service.Port? in
            guard let published = UInt16(exactly: port.port), published > 0, let transport = port.transport else {
                return nil
            }
            let target = (serving + pods).lazy.compactMap { port.target(in: $0) }.first
            let name = port.name?.printable
            return Service.Port(published: published, target: target ?? published, name: name, transport: transport)
        }
        var service = Service(
            name: object.name.printable,
            state: state,
            reason: Self.whatItIs(object, pods) ?? reason ?? Self.leftOut(object),
            ports: ports,
            replicas: serving.count
        )
        service.refusal = Self.refusal(of: object, pods)
        let sidecars = pods.flatMap(\.sidecars)
        if !sidecars.isEmpty {
            service.sidecarEntries = .init(all: sidecars.count, ended: sidecars.count { $0.life.isEnded })
        }
        service.containers = object.isPod ? nil : pods.map { $0.name.printable }
        return service
    }

    private static func state(of pods: [Pod], _ serving: [Pod]) -> (Service.State, reason: String?) {
        guard serving.isEmpty else { return (.running, nil) }
        let coming = pods.filter { !$0.isBeingDeleted }
        guard let first = coming.first else {
            return (.stopped, pods.isEmpty ? "it has no pods" : "its pods are being deleted")
        }
        return (.starting, first.reasonOfWaiting.map { "\(first.name.printable): \($0)" })
    }

    /// Why it has no pods of its own network, as a clause; nil: it may have.
    private static func whatItIs(_ object: ServiceObject, _ pods: [Pod]) -> String? {
        if object.spec?.type == "ExternalName" { return "it is only another name of a host" }
        if !object.isPod, object.selector.isEmpty { return "it has no selector" }
        return !pods.isEmpty && pods.allSatisfy(\.isOnHostNetwork) ? "its pods use their node's network" : nil
    }

    private static func leftOut(_ object: ServiceObject) -> String? {
        let others = (object.spec?.ports ?? []).filter { $0.transport == nil }
        guard !others.isEmpty else { return nil }
        let ports = others.map { "\($0.port)/\(($0.protocol ?? "").lowercased().printable)" }.joined(separator: ", ")
        return "\(ports) can't be intercepted, only TCP and UDP can"
    }

    // MARK: Refusals

    /// Why it can't be intercepted, and what to do. Nil: it can.
    static func refusal(of object: ServiceObject, _ pods: [Pod]) -> String? {
        let name = object.name.quoted
        if object.spec?.type == "ExternalName" {
            let other = object.spec?.externalName.map { " (\($0.printable))" } ?? ""
            return "\(name) is only another name of a host\(other), and has no pods. Intercept the service there."
        }
        if !object.isPod, object.selector.isEmpty {
            return
                "\(name) has no selector, so it isn't known which pods serve it. Intercept a Service that selects them,"
                + " or a pod by its name: pod/NAME"
        }
        if !pods.isEmpty, pods.allSatisfy(\.isOnHostNetwork) {
            return "the pods of \(name) use their node's network, where a sidecar would divert the node's own traffic."
                + " Intercept a service whose pods have a network of their own."
        }
        let ports = object.spec?.ports ?? []
        guard ports.contains(where: { $0.transport != nil }) || object.isPod else {
            return ports.isEmpty
                ? "\(name) names no ports. Name those that its pods serve in the Service, or intercept a pod: pod/NAME"
                : "\(name) has neither a TCP nor a UDP port. Others can't be intercepted."
        }
        return nil
    }
}

extension ServiceObject.Port {
    /// Nil: SCTP, which isn't intercepted.
    var transport: Transport? { Transport(kubernetes: self.protocol) }

    /// The port number at which this pod serves it. Nil: it doesn't, as it has no container port of that name.
    func target(in pod: Pod) -> UInt16? {
        switch self.targetPort {
        // The API server puts the port's own number where none is given, and in a headless Service it has to be the same.
        case nil: UInt16(exactly: self.port).flatMap { $0 > 0 ? $0 : nil }
        case .number(let number)?: UInt16(exactly: number).flatMap { $0 > 0 ? $0 : nil }
        case .name(let name)?: pod.containerPort(named: name, self.transport ?? .tcp)
        }
    }
}

extension Pod.ContainerPort {
    var transport: Transport? { Transport(kubernetes: self.protocol) }
}

extension Transport {
    fileprivate init?(kubernetes name: String?) {
        switch name {
        case nil, "TCP"?: self = .tcp
        case "UDP"?: self = .udp
        default: return nil
        }
    }
}

extension Pod {
    /// Containers that may serve ports: also init containers that go on running.
    var servingContainers: [Container] {
        (self.spec?.containers ?? []) + (self.spec?.initContainers ?? []).filter { $0.restartPolicy == "Always" }
    }

    private var containerPorts: [ContainerPort] { self.servingContainers.flatMap { $0.ports ?? [] } }

    /// The first one of that name, as Kubernetes takes it.
    func containerPort(named name: String, _ transport: Transport) -> UInt16? {
        self.containerPorts.first { $0.name == name && $0.transport == transport }
            .flatMap { UInt16(exactly: $0.containerPort) }.flatMap { $0 > 0 ? $0 : nil }
    }

    func portName(of port: ServicePort) -> String? {
        self.containerPorts.first { $0.containerPort == Int64(port.number) && $0.transport == port.transport }?.name
    }

    /// What its containers say that they listen on.
    var declaredPorts: [ServicePort] {
        let ports = self.containerPorts.compactMap { port -> ServicePort? in
            guard let number = UInt16(exactly: port.containerPort), number > 0, let transport = port.transport else {
                return nil
            }
            return ServicePort(number, transport)
        }
        return Set(ports).sorted()
    }

    /// Why it doesn't run, in the kubelet's or the scheduler's words.
    var reasonOfWaiting: String? {
        let waiting = (self.status?.containerStatuses ?? []).lazy.compactMap { $0.state?.waiting?.reason }
            .first { $0 != "ContainerCreating" && $0 != "PodInitializing" }
        let unscheduled = self.status?.conditions?.first { $0.type == "PodScheduled" && $0.status == "False" }?.message
        return (waiting ?? unscheduled ?? self.status?.reason)?.printable
    }
}
