public import Environments
import HostSupport
import InterceptModel
import Libc

/// Finds what a user can connect to: the contexts of their configuration, and namespaces.
public enum KubernetesDiscovery {
    /// In milliseconds: a list doesn't wait for a cluster that hangs.
    private static let patience: Int64 = 1_500
    private static let longPatience: Int64 = 10_000
    private static let namespacesAtMost = 500

    // MARK: Lists

    /// The namespaces of the current context, if it tells them in time; of every other context, its own namespace, without asking
    /// its cluster; and environments used before.
    public static func find(
        known: [EnvironmentReference] = [],
        environment: [String: String] = Spawn.ownEnvironment
    ) async -> [FoundEnvironment] {
        let known = known.compactMap { $0.kind == .kubernetes ? $0.kubernetes : nil }
        guard Kubectl.isInstalled(environment) else {
            return known.map { FoundEnvironment($0.reference, .down, reason: "there is no kubectl program in PATH") }
        }
        guard let configuration = try? await Kubeconfig.read(environment, within: Self.patience) else {
            return known.map { FoundEnvironment($0.reference, .unknown, reason: "kubectl doesn't tell its contexts") }
        }
        let files = Kubeconfig.files(environment, in: Self.workingFolder)
        func found(
            _ context: Kubeconfig.Context,
            _ namespace: String,
            _ state: FoundEnvironment.State
        ) -> FoundEnvironment {
            let place = KubernetesPlace(
                context: context.name,
                namespace: namespace,
                server: context.server,
                kubeconfig: files
            )
            // With the image that it was connected with.
            let before = known.first { $0.reference.location == place.reference.location }
            return FoundEnvironment((before ?? place).reference, state)
        }
        var result: [FoundEnvironment] = []
        if let current = configuration.current.flatMap({ configuration.context($0) }) {
            let names = try? await Self.namespaces(of: current, files, environment, within: Self.patience)
            result += (names ?? []).map { found(current, $0, .up) }
            let own = current.namespace ?? "default"
            if names?.contains(own) != true { result.insert(found(current, own, .unknown), at: 0) }
        }
        for context in configuration.contexts where context.name != configuration.current {
            result.append(found(context, context.namespace ?? "default", .unknown))
        }
        return result + Self.others(known, than: result, configuration, files)
    }

    private static func others(
        _ known: [KubernetesPlace],
        than found: [FoundEnvironment],
        _ configuration: Kubeconfig,
        _ files: String?
    ) -> [FoundEnvironment] {
        known.filter { place in !found.contains { $0.reference.location == place.reference.location } }
            .map { place in
                // A context of other files can't be looked up here.
                guard place.kubeconfig == files, configuration.context(place.context)?.server != place.server else {
                    return FoundEnvironment(place.reference, .unknown)
                }
                return FoundEnvironment(
                    place.reference,
                    .broken,
                    reason: "its context is gone, or names another server now"
                )
            }
    }

    /// Those of the cluster itself are left out.
    private static func namespaces(
        of context: Kubeconfig.Context,
        _ files: String?,
        _ environment: [String: String],
        within milliseconds: Int64
    ) async throws -> [String] {
        let path = "/api/v1/namespaces?limit=\(Self.namespacesAtMost)"
        var variables = environment
        variables["KUBECONFIG"] = files
        let words = ["kubectl", "--context=\(context.name)", "get", "--raw", path]
        let result = try await Kubectl.run(words, variables, within: milliseconds)
        guard result.code == 0, let list = ObjectList<NamespaceObject>(json: result.output) else {
            throw APIFailure.ofKubectl(result.isLate ? "nothing in time" : Kubectl.reason(result.errors))
        }
        let ofCluster = ["kube-system", "kube-public", "kube-node-lease"]
        return (list.items ?? []).filter { !$0.isBeingDeleted }.map(\.name)
            .filter { KubernetesPlace.isSoundName($0) && !ofCluster.contains($0) }
    }

    // MARK: One that was named

    /// The place that a user has named, as far as they have; the rest is their configuration's.
    public static func look(
        context name: String?,
        namespace: String?,
        image: String? = nil,
        environment: [String: String] = Spawn.ownEnvironment
    ) async throws -> EnvironmentReference {
        let configuration = try await Self.configuration(environment)
        let names = configuration.contexts.map(\.name)
        guard let name = name ?? configuration.current else {
            throw Problem(
                .failed,
                names.isEmpty ? "kubectl has no context" : "kubectl has no current context",
                names.isEmpty
                    ? "Get the configuration of your cluster: kubectl config get-contexts shows what there is."
                    : "Name one by --context: \(names.prefix(10).joined(separator: ", "))"
            )
        }
        guard let context = configuration.context(name) else {
            let suggestion = Suggestion.nearest(to: name, among: names).map { "Did you mean '\($0)'? " } ?? ""
            throw Problem(
                .failed,
                "kubectl has no context \(name.quoted)",
                "\(suggestion)See: kubectl config get-contexts"
            )
        }
        let namespace = namespace ?? context.namespace ?? "default"
        guard KubernetesPlace.isSoundName(namespace) else {
            throw Problem(.failed, "\(namespace.quoted) can't be a namespace's name", "See: kubectl get namespaces")
        }
        let place = KubernetesPlace(
            context: name,
            namespace: namespace,
            server: context.server,
            kubeconfig: Kubeconfig.files(environment, in: Self.workingFolder),
            image: image
        )
        try await Self.check(place)
        return place.reference
    }

    /// `CONTEXT/NAMESPACE`, where the name of a context may have slashes itself. Nil: there is no such context.
    public static func look(
        named name: String,
        image: String? = nil,
        environment: [String: String] = Spawn.ownEnvironment
    ) async throws -> EnvironmentReference? {
        guard let slash = name.lastIndex(of: "/"), Kubectl.isInstalled(environment) else { return nil }
        let context = String(name[..<slash])
        guard try await Self.configuration(environment).context(context) != nil else { return nil }
        let namespace = String(name[name.index(after: slash)...])
        return try await Self.look(context: context, namespace: namespace, image: image, environment: environment)
    }

    private static func configuration(_ environment: [String: String]) async throws -> Kubeconfig {
        do {
            return try await Kubeconfig.read(environment, within: Self.longPatience)
        } catch let error as APIFailure where error == .noKubectl {
            throw APIFailure.problemOfNoKubectl
        } catch let error as APIFailure {
            throw Problem(.failed, "kubectl says: \(error.message)", "Look at it: kubectl config view")
        }
    }

    /// Asks the cluster whether there is such a namespace. Who may not know that may still use it; which rights they lack, `kl doctor`
    /// says once they are connected.
    public static func check(_ place: KubernetesPlace) async throws {
        let model = KubernetesModel.of(place)
        do {
            let _: NamespaceObject = try await model.client.get("/api/v1/namespaces/\(place.namespace)")
        } catch let error as APIFailure where error.code == 403 {
            return
        } catch let error as APIFailure where error.code == 404 {
            throw Problem(
                .failed,
                "there is no namespace \(place.namespace.quoted) in the cluster of context \(place.context.quoted)",
                "See: kubectl --context \(place.context.shellQuoted) get namespaces"
            )
        } catch let error as APIFailure {
            throw error.problem(model.client.words)
        }
    }

    private static var workingFolder: String {
        guard let path = getcwd(nil, 0) else { return "/" }
        defer { free(path) }
        return String(cString: path)
    }
}
