public import Environments
import FoundationEssentials
import HostSupport
import InterceptModel

/// What can be found out of a cluster and of the user's rights there, without changing anything.
public struct KubernetesFacts: Sendable {
    /// A right that an intercept needs: a verb of a resource in the namespace.
    public struct Right: Hashable, Sendable {
        public var verb: String
        public var resource: String
        /// `exec` of `pods/exec`. The API server is asked for it by a field of its own: `pods/exec` would mean the pod that is
        /// called exec.
        public var subresource: String?

        public var text: String { "\(self.verb) \(self.resource)\(self.subresource.map { "/\($0)" } ?? "")" }

        init(_ verb: String, _ resource: String, _ subresource: String? = nil) {
            self.verb = verb
            self.resource = resource
            self.subresource = subresource
        }

        /// All that can't be done without, in the Role's order. Exec by WebSocket begins with a GET, which wants `get` too; without
        /// that right `kubectl exec` takes its place.
        public static let needed = [
            Right("get", "services"), Right("list", "services"), Right("watch", "services"), Right("patch", "services"),
            Right("get", "pods"), Right("list", "pods"), Right("watch", "pods"), Right("get", "pods", "log"),
            Right("create", "pods", "exec"),
            Right("patch", "pods", "ephemeralcontainers"),
        ]
    }

    /// Of `kubectl`. Nil: there is none, or it doesn't say.
    public var clientVersion: String?
    /// Nil: the API server didn't answer; `problem` says why.
    public var serverVersion: String?
    public var problem: Problem?
    /// How many seconds the server's clock is ahead of this machine's. Nil: it doesn't tell its time.
    public var secondsAhead: Int64?
    /// Nil: the API server doesn't say what this user may do.
    public var lacking: [Right]?
    /// What Pod Security enforces in the namespace: `privileged`, `baseline`, `restricted`. Nil: it isn't known.
    public var podSecurity: String?

    public init() {}

    /// The facts of this environment; an answer comes within some seconds.
    public static func of(
        _ place: KubernetesPlace,
        environment: [String: String] = Spawn.ownEnvironment
    ) async -> KubernetesFacts {
        let client = KubernetesModel.of(place).client
        var facts = KubernetesFacts()
        facts.clientVersion = await Self.clientVersion(environment)
        do {
            let answer = try await client.ask(APIConversation.Request("/version", []))
            facts.serverVersion = Self.version(answer.body) ?? "of an unknown version"
            facts.secondsAhead = answer.date.flatMap { HTTPDate.seconds($0) }.map { $0 - Int64(UTCTime.now.seconds) }
        } catch let error as APIFailure {
            facts.problem = error.problem(client.words)
            return facts
        } catch {
            facts.problem = error.problem
            return facts
        }
        facts.lacking = try? await Self.lacking(client)
        let namespace: NamespaceObject? = try? await client.get("/api/v1/namespaces/\(place.namespace)")
        if let labels = namespace.map({ $0.metadata.labels ?? [:] }) {
            facts.podSecurity = labels["pod-security.kubernetes.io/enforce"] ?? "privileged"
        }
        return facts
    }

    private static func version(_ body: [UInt8]) -> String? {
        struct Answer: Decodable { var gitVersion: String }
        return (try? JSONDecoder().decode(Answer.self, from: Data(body)))?.gitVersion.printable
    }

    private static func clientVersion(_ environment: [String: String]) async -> String? {
        struct Answer: Decodable {
            struct Version: Decodable { var gitVersion: String }
            var clientVersion: Version
        }
        let words = ["kubectl", "version", "--client", "--output=json"]
        guard let said = try? await Kubectl.run(words, environment, within: 5_000), said.code == 0 else { return nil }
        let answer = try? JSONDecoder().decode(Answer.self, from: Data(said.output.utf8))
        return answer?.clientVersion.gitVersion.printable
    }

    // MARK: Rights

    private static func lacking(_ client: KubernetesClient) async throws -> [Right] {
        try await withThrowingTaskGroup(of: (Right, Bool).self) { group in
            for right in Right.needed { group.addTask { (right, try await Self.has(right, client)) } }
            let lacking = try await group.reduce(into: Set<Right>()) { if !$1.1 { $0.insert($1.0) } }
            return Right.needed.filter { lacking.contains($0) }
        }
    }

    static func has(_ right: Right, _ client: KubernetesClient) async throws -> Bool {
        let review = AccessReview(right, namespace: client.place.namespace)
        let answer: AccessReview.Answer = try await client.post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            review
        )
        return answer.status?.allowed ?? false
    }
}

extension KubernetesFacts {
    /// † More than a role names.
    private static let namesAtMost = 32

    /// The Services that some rule lets the user get by name.
    static func namedServices(_ client: KubernetesClient) async throws -> [String] {
        let review = RulesReview(spec: .init(namespace: client.place.namespace))
        let answer: RulesReview.Answer = try await client.post(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            review
        )
        let rules = (answer.status?.resourceRules ?? []).filter { rule in
            (rule.resources ?? []).contains("services") && (rule.verbs ?? []).contains("get")
        }
        return Array(Set(rules.flatMap { $0.resourceNames ?? [] }).sorted().prefix(Self.namesAtMost))
    }
}

/// `kind: SelfSubjectRulesReview`: what rights the user who asks has in a namespace.
private struct RulesReview: Encodable {
    struct Spec: Encodable { var namespace: String }

    struct Answer: Decodable, Sendable {
        struct Status: Decodable, Sendable { var resourceRules: [Rule]? }
        var status: Status?
    }

    struct Rule: Decodable, Sendable {
        var verbs: [String]?
        var resources: [String]?
        var resourceNames: [String]?
    }

    var apiVersion = "authorization.k8s.io/v1"
    var kind = "SelfSubjectRulesReview"
    var spec: Spec
}

/// `kind: SelfSubjectAccessReview`: whether the user who asks has a right.
private struct AccessReview: Encodable {
    struct Spec: Encodable {
        var resourceAttributes: Attributes
    }

    struct Attributes: Encodable {
        var namespace: String
        var verb: String
        var resource: String
        var subresource: String?
    }

    struct Answer: Decodable, Sendable {
        struct Status: Decodable, Sendable { var allowed: Bool? }
        var status: Status?
    }

    var apiVersion = "authorization.k8s.io/v1"
    var kind = "SelfSubjectAccessReview"
    var spec: Spec

    init(_ right: KubernetesFacts.Right, namespace: String) {
        self.spec = Spec(
            resourceAttributes: Attributes(
                namespace: namespace,
                verb: right.verb,
                resource: right.resource,
                subresource: right.subresource
            )
        )
    }
}

/// `Mon, 30 Nov 2026 18:48:44 GMT`, as HTTP writes times.
enum HTTPDate {
    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    /// Since 1970. Nil: it isn't written so.
    static func seconds(_ text: String) -> Int64? {
        let words = text.split(separator: " ")
        guard words.count == 6, let day = Int64(words[1]), let year = Int64(words[3]), (1970...9_999).contains(year),
            (1...31).contains(day), let month = Self.months.firstIndex(of: String(words[2]))
        else { return nil }
        let time = words[4].split(separator: ":").compactMap { Int64($0) }
        guard time.count == 3, (0...23).contains(time[0]), (0...59).contains(time[1]), (0...60).contains(time[2]) else {
            return nil
        }
        // Days from 1970, by years that begin in March (Hinnant's algorithm).
        let shifted = year - (month < 2 ? 1 : 0)
        let dayOfYear = (153 * Int64((month + 10) % 12) + 2) / 5 + day - 1
        let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + dayOfYear - 719_468
        return days * 86_400 + time[0] * 3_600 + time[1] * 60 + time[2]
    }
}
