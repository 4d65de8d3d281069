import FoundationEssentials

/// What a sidecar's environment reads of Kubernetes' objects, under the API's own names. All that may lack is optional: other
/// versions, and other programs that speak for an API server, leave out what is empty.

/// An object that can be listed and watched.
protocol KubernetesObject: Decodable, Equatable, Sendable {
    /// What a list of such objects is called in paths: `pods`.
    static var resource: String { get }
    var metadata: ObjectMeta { get }
}

struct ObjectMeta: Decodable, Equatable, Sendable {
    var name: String?
    var namespace: String?
    var uid: String?
    var resourceVersion: String?
    var annotations: [String: String]?
    var labels: [String: String]?
    /// RFC 3339; set once it is to be deleted, for the time of its grace period.
    var deletionTimestamp: String?
    /// In seconds.
    var deletionGracePeriodSeconds: Int64?
    var ownerReferences: [OwnerReference]?

    struct OwnerReference: Decodable, Equatable, Sendable {
        var kind: String?
        var name: String?
        var uid: String?
        var controller: Bool?
    }

    /// Annotations hold anything, up to 256 KiB for each object; no others are read.
    static let annotationsRead: Set = [HolderList.annotation, initialEventsEnd]
    static let initialEventsEnd = "k8s.io/initial-events-end"

    private enum CodingKeys: CodingKey {
        case name, namespace, uid, resourceVersion, annotations, labels, deletionTimestamp
        case deletionGracePeriodSeconds, ownerReferences
    }
}

extension ObjectMeta {
    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.name = try values.decodeIfPresent(String.self, forKey: .name)
        self.namespace = try values.decodeIfPresent(String.self, forKey: .namespace)
        self.uid = try values.decodeIfPresent(String.self, forKey: .uid)
        self.resourceVersion = try values.decodeIfPresent(String.self, forKey: .resourceVersion)
        self.annotations = try values.decodeIfPresent([String: String].self, forKey: .annotations)?
            .filter { Self.annotationsRead.contains($0.key) }
        self.labels = try values.decodeIfPresent([String: String].self, forKey: .labels)
        self.deletionTimestamp = try values.decodeIfPresent(String.self, forKey: .deletionTimestamp)
        self.deletionGracePeriodSeconds = try values.decodeIfPresent(Int64.self, forKey: .deletionGracePeriodSeconds)
        self.ownerReferences = try values.decodeIfPresent([OwnerReference].self, forKey: .ownerReferences)
    }
}

/// `targetPort: 8080`, `targetPort: http`, also `port` of a probe.
enum IntOrString: Decodable, Hashable, Sendable {
    case number(Int64)
    case name(String)

    init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if let number = try? value.decode(Int64.self) {
            self = .number(number)
        } else {
            self = .name(try value.decode(String.self))
        }
    }
}

/// `kind: Service`
struct ServiceObject: KubernetesObject {
    static let resource = "services"

    var metadata: ObjectMeta
    var spec: Spec?
    var status: Status?

    struct Status: Decodable, Equatable, Sendable {
        struct LoadBalancer: Decodable, Equatable, Sendable { var ingress: [Ingress]? }
        struct Ingress: Decodable, Equatable, Sendable {
            var ip: String?
            var hostname: String?
        }
        var loadBalancer: LoadBalancer?
    }

    struct Spec: Decodable, Equatable, Sendable {
        /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`
        var type: String?
        var selector: [String: String]?
        var ports: [Port]?
        /// `None`: a headless Service.
        var clusterIP: String?
        var clusterIPs: [String]?
        var externalName: String?
    }

    struct Port: Decodable, Equatable, Sendable {
        var name: String?
        var port: Int64
        /// Nil: TCP.
        var `protocol`: String?
        /// Nil: the same as `port`.
        var targetPort: IntOrString?
        var nodePort: Int64?
    }
}

/// `kind: Pod`
struct Pod: KubernetesObject {
    static let resource = "pods"

    var metadata: ObjectMeta
    var spec: Spec?
    var status: Status?

    struct Spec: Decodable, Equatable, Sendable {
        /// Nil: not scheduled yet.
        var nodeName: String?
        var hostNetwork: Bool?
        var containers: [Container]?
        var initContainers: [Container]?
        var ephemeralContainers: [EphemeralContainer]?
        /// In seconds; the API server fills in 30 where it isn't given.
        var terminationGracePeriodSeconds: Int64?
        var securityContext: SecurityContext?
        var imagePullSecrets: [Reference]?
    }

    struct Reference: Decodable, Equatable, Sendable {
        var name: String?
    }

    struct SecurityContext: Decodable, Equatable, Sendable {
        var runAsUser: Int64?
        var runAsNonRoot: Bool?
    }

    struct Container: Decodable, Equatable, Sendable {
        var name: String
        var image: String?
        var ports: [ContainerPort]?
        var readinessProbe: Probe?
        var livenessProbe: Probe?
        var startupProbe: Probe?
        /// `Always`, in an init container: it goes on running, and may serve ports.
        var restartPolicy: String?
    }

    struct ContainerPort: Decodable, Equatable, Sendable {
        var name: String?
        var containerPort: Int64
        /// Nil: TCP.
        var `protocol`: String?
    }

    struct Probe: Decodable, Equatable, Sendable {
        var httpGet: Target?
        var tcpSocket: Target?
        var grpc: Target?

        struct Target: Decodable, Equatable, Sendable {
            var port: IntOrString?
        }
    }

    struct EphemeralContainer: Decodable, Equatable, Sendable {
        var name: String
        var image: String?
        var args: [String]?
    }

    struct Status: Decodable, Equatable, Sendable {
        /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`
        var phase: String?
        var reason: String?
        var message: String?
        var podIP: String?
        var podIPs: [Address]?
        var hostIP: String?
        var hostIPs: [Address]?
        var conditions: [Condition]?
        var containerStatuses: [ContainerStatus]?
        var ephemeralContainerStatuses: [ContainerStatus]?
    }

    struct Address: Decodable, Equatable, Sendable {
        var ip: String?
    }

    struct Condition: Decodable, Equatable, Sendable {
        /// `Ready`, `PodScheduled`, …
        var type: String?
        /// `True`, `False`, `Unknown`
        var status: String?
        var reason: String?
        var message: String?
    }

    struct ContainerStatus: Decodable, Equatable, Sendable {
        var name: String
        var state: ContainerState?
        var lastState: ContainerState?
        var imageID: String?
        var containerID: String?
        var restartCount: Int64?
    }

    /// One of the three is set, or none: then it waits.
    struct ContainerState: Decodable, Equatable, Sendable {
        var waiting: Waiting?
        var running: Running?
        var terminated: Terminated?
    }

    struct Waiting: Decodable, Equatable, Sendable {
        var reason: String?
        var message: String?
    }

    struct Running: Decodable, Equatable, Sendable {
        var startedAt: String?
    }

    struct Terminated: Decodable, Equatable, Sendable {
        var exitCode: Int64?
        var reason: String?
        var message: String?
        var startedAt: String?
    }
}

/// `kind: Namespace`
struct NamespaceObject: KubernetesObject {
    static let resource = "namespaces"

    var metadata: ObjectMeta
}

/// `kind: Node`
struct NodeObject: KubernetesObject {
    static let resource = "nodes"

    var metadata: ObjectMeta
    var status: Status?

    struct Status: Decodable, Equatable, Sendable {
        /// `ExternalIP`, `InternalIP`, `Hostname`, …
        struct Address: Decodable, Equatable, Sendable {
            var type: String?
            var address: String?
        }
        var addresses: [Address]?
    }
}

/// A page of a list.
struct ObjectList<Object: KubernetesObject>: Decodable, Sendable {
    var metadata: Metadata?
    /// Null in some servers' empty lists.
    var items: [Object]?

    /// Nil: the text isn't one.
    init?(json text: String) {
        guard let list = try? JSONDecoder().decode(Self.self, from: Data(text.utf8)) else { return nil }
        self = list
    }

    struct Metadata: Decodable, Sendable {
        var resourceVersion: String?
        /// Where the next page begins; absent or empty on the last one.
        var `continue`: String?
    }
}

// MARK: Questions

extension KubernetesObject {
    var name: String { self.metadata.name ?? "" }
    var uid: String { self.metadata.uid ?? "" }
    var isBeingDeleted: Bool { self.metadata.deletionTimestamp != nil }
}

extension Pod {
    var isFinished: Bool { self.status?.phase == "Succeeded" || self.status?.phase == "Failed" }
    var isRunning: Bool { self.status?.phase == "Running" }
    var isOnHostNetwork: Bool { self.spec?.hostNetwork ?? false }
    var isReady: Bool { self.status?.conditions?.contains { $0.type == "Ready" && $0.status == "True" } ?? false }

    /// Whether it serves clients, as far as the API server knows.
    var isServing: Bool { self.isRunning && !self.isBeingDeleted }

    /// A label selector of a Service: each of its labels with this value. An empty selector selects nothing here.
    func isSelected(by selector: [String: String]) -> Bool {
        !selector.isEmpty && selector.allSatisfy { self.metadata.labels?[$0.key] == $0.value }
    }

    func isSelected(byAnyOf services: [ServiceObject]) -> Bool {
        services.contains { self.isSelected(by: $0.selector) }
    }

    func status(ofEphemeral name: String) -> ContainerStatus? {
        self.status?.ephemeralContainerStatuses?.first { $0.name == name }
    }
}

extension ServiceObject {
    /// What selects its pods; empty: nothing does.
    var selector: [String: String] { self.spec?.selector ?? [:] }
}

// MARK: A pod without a Service

extension ServiceObject {
    private static let podPrefix = "pod/"

    /// The pod that `pod/NAME` names; nil: it is a Service's name.
    static func podName(_ name: String) -> String? {
        name.hasPrefix(Self.podPrefix) ? String(name.dropFirst(Self.podPrefix.count)) : nil
    }

    /// Stands for a pod that no Service selects: named `pod/NAME`, with the ports that the pod's containers declare. It has the
    /// pod's metadata otherwise.
    init(of pod: Pod) {
        self.metadata = pod.metadata
        self.metadata.name = Self.podPrefix + pod.name
        self.spec = Spec()
        self.spec?.ports = pod.declaredPorts.map { port in
            Port(
                name: pod.portName(of: port),
                port: Int64(port.number),
                protocol: port.transport == .udp ? "UDP" : "TCP",
                targetPort: .number(Int64(port.number)),
                nodePort: nil
            )
        }
    }

    var isPod: Bool { Self.podName(self.name) != nil }
}
