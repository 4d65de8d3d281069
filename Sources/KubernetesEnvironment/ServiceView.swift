import Environments
import InterceptModel
import SidecarInterface

/// A Service with its pods, as they were read together.
struct ServiceView: Sendable {
    let service: ServiceObject
    let pods: [Pod]

    func servicePort(_ port: ServicePort) -> ServiceObject.Port? {
        (self.service.spec?.ports ?? []).first { $0.port == Int64(port.number) && $0.transport == port.transport }
    }

    /// The pod's own port behind one of the Service's. Nil: the pod doesn't serve it.
    func ownPort(of port: ServicePort, in pod: Pod) -> ServicePort? {
        self.servicePort(port)?.target(in: pod).map { ServicePort($0, port.transport) }
    }

    func ownPorts(of ports: some Sequence<ServicePort>, in pod: Pod) -> Set<ServicePort> {
        Set(ports.compactMap { self.ownPort(of: $0, in: pod) })
    }

    /// The Service's ports behind which this port of the pod is.
    func servicePorts(of own: ServicePort, in pod: Pod) -> [ServicePort] {
        self.allPorts.filter { self.ownPort(of: $0, in: pod) == own }
    }

    var allPorts: [ServicePort] {
        (self.service.spec?.ports ?? []).compactMap { port in
            guard let number = UInt16(exactly: port.port), number > 0, let transport = port.transport else {
                return nil
            }
            return ServicePort(number, transport)
        }
    }

    /// All ports of the pod that clients may reach by this Service.
    func allOwnPorts(in pod: Pod) -> Set<ServicePort> { self.ownPorts(of: self.allPorts, in: pod) }

    /// Pods that may have a sidecar for these ports.
    func candidates(for ports: some Sequence<ServicePort>) -> [Pod] {
        self.pods.filter { pod in
            !pod.isBeingDeleted && !pod.isFinished && !pod.isOnHostNetwork && !self.ownPorts(of: ports, in: pod).isEmpty
        }
    }

    /// Those for whose sidecars a start waits: the pods that get the Service's traffic. If none is ready, all that are on a node.
    func awaited(for ports: some Sequence<ServicePort>) -> [Pod] {
        let candidates = self.candidates(for: ports)
        let ready = candidates.filter(\.isReady)
        return ready.isEmpty ? candidates.filter { $0.spec?.nodeName != nil } : ready
    }

    var isIPv6: Bool {
        let addresses =
            self.pods.flatMap { ($0.status?.podIPs ?? []).compactMap(\.ip) } + (self.service.spec?.clusterIPs ?? [])
        return addresses.contains { $0.contains(":") }
    }

    func location(
        of pod: Pod,
        at sidecar: (name: String, words: SidecarWords),
        for ports: some Sequence<ServicePort>
    ) -> SidecarLocation {
        let (name, words) = sidecar
        func place(_ port: UInt16) -> String? { pod.address.map { Endpoint(host: $0, port: port).description } }
        let named = self.allPorts.compactMap { port in
            self.ownPort(of: port, in: pod).map { SidecarLocation.Port(port, own: $0.number) }
        }
        let isAlike = named.count == self.allPorts.count && named.allSatisfy { $0.service == $0.own }
        var location = SidecarLocation(
            name: pod.name,
            publicKey: words.publicKey,
            tcp: place(words.port) ?? "",
            udp: words.datagramPort.flatMap(place),
            container: name,
            listens: self.ownPorts(of: ports, in: pod).sorted().compactMap { port in
                place(port.number).map { $0 + port.transport.suffix }
            },
            ports: isAlike ? nil : named
        )
        location.originalSees = words.originalSees(in: pod)
        return location
    }
}

extension SidecarWords {
    /// In a pod's network the sidecar has the pod's address.
    func originalSees(in pod: Pod) -> SeenAddress? {
        var seen = self.originalSees
        if seen?.whose == .sidecar { seen?.address = pod.address }
        return seen
    }
}
