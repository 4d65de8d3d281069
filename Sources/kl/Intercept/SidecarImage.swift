import DockerEnvironment
import Environments
import HostSupport
import Interactive
import InterceptModel
import Libc
import WorkspaceAPI

/// The image of the sidecars' containers. It is built on this machine, and never pulled without being asked for.
enum SidecarImage {
    /// On a terminal, offers to build a missing image. Elsewhere the start itself fails and says so.
    static func offer(_ request: StartRequest, _ output: OutputOptions) async throws {
        let reference = request.environment
        guard reference.kind == .docker, output.isText, Terminal.isInteractive() else { return }
        guard try await !DockerDiscovery.hasImage(request.sidecarImage, reference) else { return }
        guard let builder = Self.builder else { throw DockerDiscovery.noImage(request.sidecarImage) }
        let isHere = Spawn.find("swift", path: Spawn.ownEnvironment["PATH"]) != nil
        let how = isHere ? "with this machine's Swift" : "in a Swift image, which docker pulls"
        Terminal.say("The engine has no image for the sidecar. agent/image builds it \(how).")
        guard try Self.agree("Build it now? [Y/n]: ") else {
            throw DockerDiscovery.noImage(request.sidecarImage)
        }
        var arguments = isHere ? ["--here"] : []
        if let image = request.sidecarImage { arguments += ["--tag", image] }
        try Self.run(builder, arguments, reference)
    }

    private static func agree(_ question: String) throws -> Bool {
        let prompt = LinePrompt(prompt: question, defaultAnswer: "y") { answer in
            ["y", "yes", "n", "no"].contains(answer.lowercased()) ? nil : "Answer y or n."
        }
        switch try Terminal.ask(prompt) {
        case .chosen(let answer): return answer.lowercased().hasPrefix("y")
        case .cancelled: return false
        case .interrupted: throw Problem(.interrupted, "interrupted: nothing was done.")
        }
    }

    /// `agent/image` in the source folder in which this program was built.
    private static var builder: String? {
        var folder = SmallFile.parent(of: Spawn.ownExecutable)
        while folder != "/", folder != "." {
            let builder = "\(folder)/agent/image"
            if access(builder, X_OK) == 0, access("\(folder)/Dockerfile", R_OK) == 0 { return builder }
            folder = SmallFile.parent(of: folder)
        }
        return nil
    }

    private static func run(_ builder: String, _ arguments: [String], _ reference: EnvironmentReference) throws {
        var environment = Spawn.ownEnvironment
        for (name, value) in reference.docker?.engine.clientVariables ?? [:] { environment[name] = value }
        var spawn = Spawn(builder, arguments, environment: environment)
        // The builder's output isn't this command's result, so it goes to standard error. And it stays in this session, so
        // that Ctrl-C at the terminal reaches it.
        spawn.descriptors = [nil, STDERR_FILENO, STDERR_FILENO]
        spawn.makesSession = false
        let pid = try spawn.start()
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        let end = ProcessEnd(status: status)
        guard end.isSuccess else {
            throw Problem(
                .failed,
                "the sidecar's image wasn't built: \(builder) \(end.reason)",
                "What it said stands above; fix that, then try again."
            )
        }
    }
}
