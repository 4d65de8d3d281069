/// A part of what a Docker engine runs: a compose project, or the containers in a network.
public struct DockerPlace: Codable, Hashable, Sendable {
    public enum Selection: Hashable, Sendable {
        case project(String)
        case network(String)
    }

    public var project: String?
    public var network: String?
    public var engine: DockerEngine

    public init(_ selection: Selection, engine: DockerEngine) {
        switch selection {
        case .project(let name): self.project = name
        case .network(let name): self.network = name
        }
        self.engine = engine
    }

    public var selection: Selection {
        if let project { return .project(project) }
        return .network(self.network ?? "")
    }

    public var reference: EnvironmentReference {
        let text =
            switch self.selection {
            case .project(let name): "project:\(name)"
            case .network(let name): "network:\(name)"
            }
        let name = self.project ?? self.network ?? ""
        var reference = EnvironmentReference(kind: .docker, name: name, location: "\(text)@\(self.engine.name)")
        reference.docker = self
        return reference
    }

    /// The engine and compose have the same rules for names. Names become parts of arguments and of output.
    public static func isSoundName(_ name: String) -> Bool {
        guard let first = name.utf8.first, name.utf8.count <= 128 else { return false }
        return first.isAlphanumeric
            && name.utf8.allSatisfy { $0.isAlphanumeric || $0 == 0x2E || $0 == 0x5F || $0 == 0x2D }
    }
}

/// How an engine is reached. The settings are stored when the user connects, since the daemon outlives the shell and its
/// variables.
public struct DockerEngine: Codable, Hashable, Sendable {
    /// `unix:///var/run/docker.sock`; nil: the context determines it.
    public var host: String?
    /// A context other than the default one.
    public var context: String?
    /// The folder of the client's configuration, if it isn't the default one.
    public var configuration: String?
    /// Other variables that the client, or the ssh it starts, reads.
    public var variables: [String: String]

    public init(
        host: String? = nil,
        context: String? = nil,
        configuration: String? = nil,
        variables: [String: String] = [:]
    ) {
        self.host = host
        self.context = context
        self.configuration = configuration
        self.variables = variables
    }

    /// The name that people see.
    public var name: String { self.context.map { "context:\($0)" } ?? self.host ?? "docker" }
}
