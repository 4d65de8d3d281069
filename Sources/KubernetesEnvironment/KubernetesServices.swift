import Environments
import InterceptModel

/// Services as people see them, made of the API's objects.
struct KubernetesServices {
    let objects: [ServiceObject]
    let pods: [Pod]

    init(_ objects: [ServiceObject], _ pods: [Pod]) {
        self.objects = objects
        self.pods = pods
    }

    var all: [Service] { self.objects.sorted { $0.name < $1.name }.map { self.service($0) } }

    func service(_ object: ServiceObject) -> Service {
        let pods = self.pods.filter { $0.isSelected(by: object.selector) && !$0.isFinished }
        let serving = pods.filter(\.isServing)
        let ports = (object.spec?.ports ?? []).compactMap { port -> Service.Port? in
            guard let published = UInt16(exactly: port.port), published > 0, let transport = port.transport else {
                return nil
            }
            let target = (serving + pods).lazy.compactMap { port.target(in: $0) }.first ?? published
            return Service.Port(published: published, target: target, name: port.name?.printable, transport: transport)
        }
        return Service(
            name: object.name.printable,
            state: serving.isEmpty ? .stopped : .running,
            ports: ports,
            replicas: serving.count
        )
    }
}

extension ServiceObject.Port {
    /// Nil: SCTP, which isn't intercepted.
    var transport: Transport? {
        switch self.protocol {
        case nil, "TCP"?: .tcp
        case "UDP"?: .udp
        default: nil
        }
    }

    /// The port number at which this pod serves it. Nil: it doesn't, as it has no container port of that name.
    func target(in pod: Pod) -> UInt16? {
        switch self.targetPort {
        case nil: UInt16(exactly: self.port).flatMap { $0 > 0 ? $0 : nil }
        case .number(let number)?: UInt16(exactly: number).flatMap { $0 > 0 ? $0 : nil }
        case .name(let name)?: pod.containerPort(named: name, self.transport ?? .tcp)
        }
    }
}

extension Pod.ContainerPort {
    var transport: Transport? {
        switch self.protocol {
        case nil, "TCP"?: .tcp
        case "UDP"?: .udp
        default: nil
        }
    }
}

extension Pod {
    /// Containers that may serve ports: also init containers that go on running.
    var servingContainers: [Container] {
        (self.spec?.containers ?? []) + (self.spec?.initContainers ?? []).filter { $0.restartPolicy == "Always" }
    }

    /// The first one of that name, as Kubernetes takes it.
    func containerPort(named name: String, _ transport: Transport) -> UInt16? {
        for container in self.servingContainers {
            for port in container.ports ?? [] where port.name == name && port.transport == transport {
                return UInt16(exactly: port.containerPort).flatMap { $0 > 0 ? $0 : nil }
            }
        }
        return nil
    }

    func portName(of port: ServicePort) -> String? {
        self.servingContainers.flatMap { $0.ports ?? [] }
            .first { $0.containerPort == Int64(port.number) && $0.transport == port.transport }?.name
    }

    /// What its containers say that they listen on.
    var declaredPorts: [ServicePort] {
        let ports = self.servingContainers.flatMap { $0.ports ?? [] }.compactMap { port -> ServicePort? in
            guard let number = UInt16(exactly: port.containerPort), number > 0, let transport = port.transport else {
                return nil
            }
            return ServicePort(number, transport)
        }
        return Set(ports).sorted()
    }
}
