import CommandText
import Environments
import InterceptModel

/// A Service of our own that leads from outside the cluster to one pod's sidecar, for one workspace.
///
/// It selects the pod by a label with the pod's UID, so that no other pod can get what is meant for this one; the cluster follows the
/// pod's address. It belongs to the pod, and so goes with it, whatever becomes of this process.
struct TunnelService: Sendable {
    /// Where it can be reached, HOST:PORT.
    struct Place: Equatable, Sendable {
        var tcp: String
        var udp: String?
    }

    let pod: Pod
    /// The sidecar's container.
    let container: String
    let way: KubernetesPlace.Way
    let workspace: Member

    static let podLabel = "kl.io/pod"
    private static let workspaceLabel = "kl.io/workspace"
    private static let managerLabel = "app.kubernetes.io/managed-by"
    private static let manager = "kl"

    /// The key's first 66 bits, of 11 digits of base64, which names and labels can't have: there is no room for all.
    private static func short(_ key: String) -> String {
        key.utf8.prefix(11).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    var name: String { "\(self.container)-\(Self.short(self.workspace.publicKey))" }

    /// Selects the Services of this workspace.
    static func selector(of key: String) -> String {
        "\(Self.managerLabel)=\(Self.manager),\(Self.workspaceLabel)=\(Self.short(key))"
    }

    /// Whether a Service is one of ours, of whichever workspace.
    static func isOurs(_ service: ServiceObject) -> Bool {
        service.metadata.labels?[Self.managerLabel] == Self.manager
            && service.metadata.labels?[Self.workspaceLabel] != nil
    }

    /// The pod's label that the Service selects. A StatefulSet's pods have one that will do.
    var podLabel: (name: String, value: String, isThere: Bool) {
        let ofSet = "statefulset.kubernetes.io/pod-name"
        if let name = self.pod.metadata.labels?[ofSet], name == self.pod.name { return (ofSet, name, true) }
        let isThere = self.pod.metadata.labels?[Self.podLabel] == self.pod.uid
        return (Self.podLabel, self.pod.uid, isThere)
    }

    // MARK: Objects

    /// A merge patch of the pod.
    var podPatch: some Encodable & Sendable {
        struct Patch: Encodable, Sendable {
            struct Metadata: Encodable, Sendable {
                var uid: String
                var labels: [String: String]
            }
            var metadata: Metadata
        }
        // With its UID: a StatefulSet may have made another pod of that name.
        return Patch(metadata: .init(uid: self.pod.uid, labels: [self.podLabel.name: self.podLabel.value]))
    }

    func object(tcp: UInt16, udp: UInt16?) -> some Encodable & Sendable {
        var ports = [Object.Port(name: "tcp", protocol: "TCP", port: tcp, targetPort: tcp)]
        if let udp { ports.append(.init(name: "udp", protocol: "UDP", port: udp, targetPort: udp)) }
        return Object(
            metadata: .init(
                name: self.name,
                labels: [Self.managerLabel: Self.manager, Self.workspaceLabel: Self.short(self.workspace.publicKey)],
                annotations: ["kl.io/holder": self.workspace.label.printable, "kl.io/pod": self.pod.name],
                ownerReferences: [.init(name: self.pod.name, uid: self.pod.uid)]
            ),
            spec: .init(
                type: self.way == .nodePort ? "NodePort" : "LoadBalancer",
                selector: [self.podLabel.name: self.podLabel.value],
                ports: ports
            )
        )
    }

    private struct Object: Encodable, Sendable {
        struct Metadata: Encodable, Sendable {
            var name: String
            var labels: [String: String]
            var annotations: [String: String]
            var ownerReferences: [Owner]
        }
        struct Owner: Encodable, Sendable {
            let apiVersion = "v1"
            let kind = "Pod"
            var name: String
            var uid: String
        }
        struct Spec: Encodable, Sendable {
            var type: String
            var selector: [String: String]
            /// The tunnel is to be there before the pod serves, and as long as it does.
            let publishNotReadyAddresses = true
            var ports: [Port]
        }
        struct Port: Encodable, Sendable {
            var name: String
            var `protocol`: String
            var port: UInt16
            var targetPort: UInt16
        }
        let apiVersion = "v1"
        let kind = "Service"
        var metadata: Metadata
        var spec: Spec
    }

    // MARK: Where it is

    /// Nil: the cluster hasn't given it its ports or its address yet.
    func place(_ service: ServiceObject, node: String?) -> Place? {
        func port(_ transport: String) -> ServiceObject.Port? {
            service.spec?.ports?.first { ($0.protocol ?? "TCP") == transport }
        }
        let host: String
        switch self.way {
        case .podAddress: return nil
        case .nodePort:
            guard let node else { return nil }
            host = node
        case .loadBalancer:
            let ingress = (service.status?.loadBalancer?.ingress ?? []).lazy
            guard let first = ingress.compactMap({ $0.ip ?? $0.hostname }).first(where: { !$0.isEmpty }) else {
                return nil
            }
            host = first
        }
        func place(_ port: ServiceObject.Port?) -> String? {
            let number = self.way == .nodePort ? port?.nodePort : port?.port
            return number.flatMap { UInt16(exactly: $0) }.flatMap { number in
                number > 0 ? Endpoint(host: host, port: number).description : nil
            }
        }
        guard let tcp = place(port("TCP")) else { return nil }
        return Place(tcp: tcp, udp: place(port("UDP")))
    }
}
