/// Identifies an environment, in a form that can be stored.
public struct EnvironmentReference: Codable, Hashable, Sendable {
    public enum Kind: String, Codable, Sendable {
        case local
        case docker
        case kubernetes
    }

    public var kind: Kind
    public var name: String
    /// `local`: the compose file's absolute path. `docker`: `project:shop@unix:///var/run/docker.sock`.
    /// `kubernetes`: `CONTEXT/NAMESPACE@SERVER`.
    public var location: String
    /// Only set for `docker`.
    public var docker: DockerPlace?
    /// Only set for `kubernetes`.
    public var kubernetes: KubernetesPlace?

    public init(kind: Kind, name: String, location: String) {
        self.kind = kind
        self.name = name
        self.location = location
    }

    /// Says that nothing of it runs, and what starts it, as a clause.
    public var notUpReason: String {
        switch self.kind {
        case .local: "the environment isn't up; kl env up starts it"
        case .docker: "the environment has no containers; docker compose up starts them"
        case .kubernetes: "the namespace has no services"
        }
    }
}

/// An environment that can be connected to, or the reason why not.
public struct FoundEnvironment: Codable, Equatable, Sendable {
    public enum State: String, Codable, Sendable {
        case up
        case down
        /// Its compose file can't be used.
        case broken
        /// Nobody has asked: that takes time, or a login.
        case unknown
    }

    public var reference: EnvironmentReference
    public var state: State
    /// Why it is broken, as a sentence.
    public var reason: String?
    /// It was used before, and its file no longer exists.
    public var isGone: Bool

    public init(_ reference: EnvironmentReference, _ state: State, reason: String? = nil, isGone: Bool = false) {
        self.reference = reference
        self.state = state
        self.reason = reason
        self.isGone = isGone
    }
}
