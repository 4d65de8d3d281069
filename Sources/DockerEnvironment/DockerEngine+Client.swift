public import Environments
import FoundationEssentials
import InterceptModel

/// How its client is told which engine is meant, and says which one it would take.
extension DockerEngine {
    private static let kept = [
        "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "SSH_AUTH_SOCK",
    ]

    /// From the output of `docker context inspect` for the selected context, and from the variables.
    init?(contextJSON text: String, environment: [String: String]) {
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
    var words: [String] {
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
    var isHere: Bool { self.host?.hasPrefix("unix:") ?? false }
}
