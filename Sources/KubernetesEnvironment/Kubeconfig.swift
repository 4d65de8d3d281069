import Environments
import FoundationEssentials
import HostSupport
import InterceptModel

/// The user's configuration as `kubectl` has merged it from its files, without what is secret in it.
struct Kubeconfig: Equatable, Sendable {
    struct Context: Equatable, Sendable {
        var name: String
        /// The URL of its API server.
        var server: String
        /// Nil: `default`.
        var namespace: String?
        /// The program that logs its user in.
        var program: String?
    }

    var current: String?
    var contexts: [Context]

    /// From `kubectl config view --output=json`. Nil: it isn't that.
    init?(json text: String) {
        guard let file = try? JSONDecoder().decode(File.self, from: Data(text.utf8)) else { return nil }
        self.current = file.current.flatMap { $0.isEmpty ? nil : $0 }
        let clusters = Dictionary(
            (file.clusters ?? []).map { ($0.name, $0.cluster) },
            uniquingKeysWith: { first, _ in first }
        )
        let users = Dictionary((file.users ?? []).map { ($0.name, $0.user) }, uniquingKeysWith: { first, _ in first })
        self.contexts = (file.contexts ?? []).prefix(Self.contextsAtMost).compactMap { one in
            guard let server = one.context?.cluster.flatMap({ clusters[$0] })??.server, !server.isEmpty,
                Self.isSound(one.name), Self.isSound(server)
            else { return nil }
            return Context(
                name: one.name,
                server: server,
                namespace: one.context?.namespace.flatMap { KubernetesPlace.isSoundName($0) ? $0 : nil },
                program: one.context?.user.flatMap { users[$0] }??.exec?.command
            )
        }
    }

    /// † More than a user has.
    private static let contextsAtMost = 500

    /// A context's name may have almost any character; it becomes a part of arguments and output.
    private static func isSound(_ text: String) -> Bool { !text.isEmpty && text == text.printable }

    private struct File: Decodable {
        struct NamedContext: Decodable {
            struct Context: Decodable {
                var cluster: String?
                var user: String?
                var namespace: String?
            }
            var name: String
            var context: Context?
        }
        struct NamedCluster: Decodable {
            struct Cluster: Decodable { var server: String? }
            var name: String
            var cluster: Cluster?
        }
        struct NamedUser: Decodable {
            struct User: Decodable {
                struct Exec: Decodable { var command: String? }
                var exec: Exec?
            }
            var name: String
            var user: User?
        }
        var current: String?
        var contexts: [NamedContext]?
        var clusters: [NamedCluster]?
        var users: [NamedUser]?

        private enum CodingKeys: String, CodingKey {
            case contexts, clusters, users
            case current = "current-context"
        }
    }

    func context(_ name: String) -> Context? { self.contexts.first { $0.name == name } }

    // MARK: Reading

    /// No cluster is asked for this.
    static func read(_ environment: [String: String], within milliseconds: Int64) async throws -> Kubeconfig {
        let words = ["kubectl", "config", "view", "--output=json"]
        let result = try await Kubectl.run(words, environment, within: milliseconds)
        guard result.code == 0, let configuration = Kubeconfig(json: result.output) else {
            throw APIFailure.ofKubectl(result.isLate ? "nothing in time" : Kubectl.reason(result.errors))
        }
        return configuration
    }

    /// The value of `KUBECONFIG` in a form that doesn't depend on the working folder. Nil: it isn't set.
    static func files(_ environment: [String: String], in folder: String) -> String? {
        guard let value = environment["KUBECONFIG"], !value.isEmpty else { return nil }
        return value.split(separator: ":", omittingEmptySubsequences: true)
            .map { $0.hasPrefix("/") ? String($0) : "\(folder)/\($0)" }
            .joined(separator: ":")
    }
}
