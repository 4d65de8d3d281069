/// A namespace of a Kubernetes cluster, as one of the user's contexts reaches it.
///
/// All of it is settled when the user connects: `kubectl config use-context` in another shell, or another `KUBECONFIG` there,
/// must not move an environment to another cluster.
public struct KubernetesPlace: Codable, Hashable, Sendable {
    public var context: String
    public var namespace: String
    /// The URL of the context's API server when the user connected.
    public var server: String
    /// The value of `KUBECONFIG` when the user connected; nil: `kubectl` uses its default file.
    public var kubeconfig: String?
    /// The image of sidecars in this cluster, unless a start names another; nil: this version's own.
    public var image: String?

    /// How sidecars are dialled; nil: at their pods' addresses.
    public var way: Way?
    /// The host at which the nodes' ports are dialled; nil: what the cluster says.
    public var nodeAddress: String?

    public enum Way: String, Codable, Hashable, Sendable, CaseIterable {
        case podAddress = "pod-address"
        /// By a Service for each sidecar, at a port of the nodes, or at an address of its own.
        case nodePort = "node-port"
        case loadBalancer = "load-balancer"
    }

    public init(
        context: String,
        namespace: String,
        server: String,
        kubeconfig: String? = nil,
        image: String? = nil
    ) {
        self.context = context
        self.namespace = namespace
        self.server = server
        self.kubeconfig = kubeconfig
        self.image = image
    }

    /// The same for whatever sidecars are made of and however they are dialled.
    public var cluster: KubernetesPlace {
        KubernetesPlace(
            context: self.context,
            namespace: self.namespace,
            server: self.server,
            kubeconfig: self.kubeconfig
        )
    }

    public var reference: EnvironmentReference {
        let name = "\(self.context)/\(self.namespace)"
        var reference = EnvironmentReference(kind: .kubernetes, name: name, location: "\(name)@\(self.server)")
        reference.kubernetes = self
        return reference
    }

    /// The rule for names of namespaces, and of most objects (RFC 1123 subdomains). Names become parts of arguments, paths and
    /// output.
    public static func isSoundName(_ name: String) -> Bool {
        guard let first = name.utf8.first, let last = name.utf8.last, name.utf8.count <= 253 else { return false }
        func isWord(_ byte: UInt8) -> Bool { (0x61...0x7A).contains(byte) || byte.isDigit }
        return isWord(first) && isWord(last) && name.utf8.allSatisfy { isWord($0) || $0 == 0x2D || $0 == 0x2E }
    }
}
