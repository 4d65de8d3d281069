import FoundationEssentials
import HostSupport
import InterceptModel

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

    private static let kept = [
        "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "SSH_AUTH_SOCK",
    ]

    /// From the output of `docker context inspect` for the selected context, and from the variables.
    package init?(contextJSON text: String, environment: [String: String]) {
        struct Context: Decodable {
            struct Endpoint: Decodable { var Host: String? }
            var Name: String
            var Endpoints: [String: Endpoint]?
        }
        guard let context = try? JSONDecoder().decode(Context.self, from: Data(text.utf8)) else { return nil }
        let host = context.Endpoints?["docker"]?.Host.flatMap { $0.isEmpty ? nil : $0 }
        self.init(configuration: environment["DOCKER_CONFIG"].flatMap { $0.isEmpty ? nil : $0 })
        if context.Name == "default" { self.host = host } else { self.context = context.Name }
        guard (self.host ?? "").allSatisfy({ !$0.isWhitespace }), self.name == self.name.printable else { return nil }
        for name in Self.kept {
            guard let value = environment[name], !value.isEmpty else { continue }
            // The ssh agent's socket is needed for an ssh host only.
            if name == "SSH_AUTH_SOCK", host?.hasPrefix("ssh:") != true { continue }
            self.variables[name] = value
        }
    }

    /// The command line up to the client's subcommand.
    package var words: [String] {
        var words =
            self.variables.isEmpty ? [] : ["env"] + self.variables.sorted { $0.key < $1.key }.map { "\($0)=\($1)" }
        words.append("docker")
        if let configuration { words += ["--config", configuration] }
        if let context { words += ["--context", context] } else if let host { words += ["--host", host] }
        return words
    }

    /// Variables for a program that starts the client itself.
    public var clientVariables: [String: String] {
        var result = self.variables
        if let configuration { result["DOCKER_CONFIG"] = configuration }
        if let context { result["DOCKER_CONTEXT"] = context } else if let host { result["DOCKER_HOST"] = host }
        return result
    }

    /// Whether the engine runs on this machine, as far as its address shows.
    package var isHere: Bool { self.host?.hasPrefix("unix:") ?? false }
}
