import DockerEnvironment
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel

/// The sidecar program, which local environments start.
struct SidecarProgramFacts {
    /// Nil: it is neither beside `kl` nor in PATH.
    var path: String?
    /// The output of --version; nil: none in time.
    var version: String?
    var expected = Version.text

    var checks: [Check] {
        guard let path = self.path else {
            return [
                .failed("sidecar", "kl-sidecar isn't beside kl, nor in PATH", "Install it there: both belong together.")
            ]
        }
        guard let version = self.version else {
            return [.failed("sidecar", "\(path) doesn't run", "Install the one that belongs to this kl.")]
        }
        guard version == self.expected else {
            return [
                .failed(
                    "sidecar",
                    "\(path) is '\(version)', and kl is '\(self.expected)'",
                    "Install both of one version."
                )
            ]
        }
        return [.ok("sidecar", "\(path), of this version")]
    }

    /// The program of this machine.
    static var here: SidecarProgramFacts {
        let beside = SmallFile.parent(of: Spawn.ownExecutable) + "/kl-sidecar"
        let path = Spawn.find(beside, path: nil) ?? Spawn.find("kl-sidecar", path: Spawn.ownEnvironment["PATH"])
        let said = path.flatMap { BoundedCommand.run($0, ["--version"], within: 2_000) }
        return SidecarProgramFacts(path: path, version: said.flatMap { $0.code == 0 ? $0.output.trimmingBlanks : nil })
    }
}

/// Docker's client and engine, and the sidecar's image. Only environments of containers need them.
struct DockerFacts {
    enum Engine: Equatable {
        case answers(version: String)
        case denied
        case silent
        /// The client's error.
        case failed(String)
    }

    /// Nil: there is no client.
    var client: String?
    var engine = Engine.silent
    /// Nil: it can't be told.
    var hasImage: Bool?
    var image = "kl-sidecar:\(Version.number)"
    /// Whether the connected environment is one of containers.
    var isNeeded = false

    var checks: [Check] {
        // A warning becomes a failure if the connected environment needs Docker.
        self.findings.map { check in
            var check = check
            if self.isNeeded, check.state == .warning { check.state = .failed }
            return check
        }
    }

    private var findings: [Check] {
        guard let client = self.client else {
            return [
                .warning(
                    "docker",
                    "no docker client is in PATH",
                    "Install one (docker-cli) for environments of containers."
                )
            ]
        }
        switch self.engine {
        case .answers(let version): return [.ok("docker", "\(client), engine \(version)")] + self.imageCheck
        case .denied:
            return [
                .warning(
                    "docker",
                    "you may not use the engine's socket",
                    "Join its group (sudo usermod -aG docker $USER, then log in again), or name an engine of your own by DOCKER_HOST."
                )
            ]
        case .silent:
            return [
                .warning("docker", "the engine doesn't answer within 2 s", "Check it: systemctl status docker")
            ]
        case .failed(let reason):
            return [
                .warning(
                    "docker",
                    "the engine can't be reached: \(reason)",
                    "Start it (systemctl start docker), or name another by DOCKER_HOST."
                )
            ]
        }
    }

    private var imageCheck: [Check] {
        switch self.hasImage {
        case true?: [.ok("sidecar image", "\(self.image) is there")]
        case false?: [.warning("sidecar image", "\(self.image) isn't there", "Make it: agent/image")]
        case nil: [.warning("sidecar image", "the engine doesn't say whether \(self.image) is there", "Try again.")]
        }
    }
}

extension DockerFacts {
    /// In milliseconds, for each call of the client.
    private static let patience: Int64 = 2_000

    /// The facts of this machine.
    /// - Parameter connected: the connected environment, whose engine is asked if it has one.
    static func here(connected: EnvironmentReference?) -> DockerFacts {
        var facts = DockerFacts()
        facts.client = Spawn.find("docker", path: Spawn.ownEnvironment["PATH"])
        let words = connected.flatMap { DockerDiscovery.clientWords($0) }
        facts.isNeeded = words != nil
        if let image = Spawn.ownEnvironment["KL_SIDECAR_IMAGE"], !image.isEmpty { facts.image = image }
        let first = words?.first == "env" ? Spawn.find("env", path: Spawn.ownEnvironment["PATH"]) : facts.client
        guard facts.client != nil, let client = first else { return facts }
        let flags = Array((words ?? []).dropFirst())
        guard
            let said = BoundedCommand.run(
                client,
                flags + ["version", "--format", "{{json .}}"],
                within: Self.patience
            )
        else { return facts }
        facts.engine = Self.engine(said)
        guard case .answers = facts.engine else { return facts }
        let question = flags + ["image", "inspect", "--format", "{{.Id}}", facts.image]
        guard let image = BoundedCommand.run(client, question, within: Self.patience), !image.isLate else {
            return facts
        }
        facts.hasImage = image.code == 0
        return facts
    }

    static func engine(_ said: BoundedCommand.Result) -> Engine {
        struct Answer: Decodable {
            struct Server: Decodable { var Version: String }
            var Server: Server?
        }
        if said.isLate { return .silent }
        let lines = said.output.split(separator: "\n")
        for line in lines {
            guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(line.utf8)) else { continue }
            if let server = answer.Server, said.code == 0 { return .answers(version: server.Version) }
        }
        let reason = lines.last { !$0.hasPrefix("{") }.map { $0.trimmingBlanks } ?? "its client says nothing"
        if reason.lowercased().contains("permission denied") { return .denied }
        // Only the first sentence of the client's error: the check says itself what to do.
        let first = reason.firstRange(of: ". ").map { reason[..<$0.lowerBound] } ?? reason[...]
        return .failed(String((first.hasSuffix(".") ? first.dropLast() : first).prefix(200)))
    }
}
