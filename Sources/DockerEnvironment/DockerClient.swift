import Environments
import HostSupport
import InterceptModel
import NIOPosix

/// Talks to an engine through its client program, which handles contexts, certificates and connections over ssh.
///
/// No shell is involved; each question has a time limit, and each answer a size limit.
struct DockerClient: Sendable {
    let engine: DockerEngine

    /// † In milliseconds; an engine answers in a few hundredths of a second.
    static let patience: Int64 = 5_000
    /// In milliseconds; for creating a container, which may wait for disks.
    static let longPatience: Int64 = 30_000
    /// † Enough for some thousand containers.
    static let outputAtMost = 16 * 1_048_576

    /// Each thread may wait for an engine that hangs.
    private static let pool: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: 16)
        pool.start()
        return pool
    }()

    typealias Result = BoundedCommand.Result

    /// Runs the client to its end and returns the result, even a failure.
    func run(
        _ arguments: [String],
        within milliseconds: Int64 = Self.patience,
        outputAtMost: Int = Self.outputAtMost,
        until isEnough: (@Sendable (String) -> Bool)? = nil
    ) async throws -> Result {
        let words = self.engine.words + arguments
        return try await Self.pool.runIfActive {
            let program = try Self.program(words)
            let result = BoundedCommand.run(
                program,
                Array(words.dropFirst()),
                within: milliseconds,
                outputAtMost: outputAtMost,
                until: isEnough
            )
            guard let result else {
                throw Problem(.failed, "\(program) can't be started", "Look whether it runs: docker version")
            }
            return result
        }
    }

    /// The client's output; throws if it failed or took too long.
    func answer(_ arguments: [String], within milliseconds: Int64 = Self.patience) async throws -> String {
        let result = try await self.run(arguments, within: milliseconds)
        guard result.code == 0 else { throw self.error(result, within: milliseconds) }
        return result.output
    }

    private static func program(_ words: [String]) throws(Problem) -> String {
        for name in Set(["docker", words.first ?? "docker"]) {
            do throws(HostError) { try FilterProcess.program([name]) } catch {
                throw Problem(
                    .failed,
                    "there is no \(name) program in PATH, which environments of containers need",
                    "Install Docker's client (Debian: apt install docker.io)."
                )
            }
        }
        do throws(HostError) { return try FilterProcess.program(words) } catch { throw Problem(error) }
    }

    /// The engine of the context that is selected here, with the current variables.
    static func currentEngine(
        environment: [String: String] = Spawn.ownEnvironment,
        within milliseconds: Int64 = Self.patience
    ) async throws -> DockerEngine {
        // Without arguments that name an engine, the client looks at the variables.
        let configuration = environment["DOCKER_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        let asking = DockerClient(engine: DockerEngine(configuration: configuration))
        // The client contacts the engine, too, although the answer isn't needed.
        let said = try await asking.answer(["context", "inspect", "--format", "{{json .}}"], within: milliseconds)
        guard let engine = DockerEngine(contextJSON: said, environment: environment) else {
            throw Problem(
                .failed,
                "the docker client doesn't say which context it uses",
                "Look at what it says: docker context inspect"
            )
        }
        return engine
    }

    // MARK: Failures

    func error(_ result: Result, within milliseconds: Int64 = Self.patience) -> Problem {
        if result.isLate {
            return Problem(
                .failed,
                "the Docker engine at \(self.engine.name.printable) doesn't answer within \(milliseconds / 1_000) s",
                "Check it: kl doctor"
            )
        }
        if result.isTooLong {
            return Problem(
                .failed,
                "the Docker engine at \(self.engine.name.printable) says more than is read here",
                "Look at what it says: docker ps --all"
            )
        }
        return Self.error(saying: result.errors, at: self.engine.name)
    }

    static func error(saying errors: String, at engine: String) -> Problem {
        let reason = Self.reason(errors)
        let small = reason.lowercased()
        if small.contains("permission denied"), small.contains("socket") || small.contains("connect") {
            return Problem(
                .failed,
                "you may not use the Docker engine's socket at \(engine.printable)",
                "Join its group (sudo usermod -aG docker"
                    + " $USER, then log in again), or name an engine of your own by DOCKER_HOST and connect again."
            )
        }
        let isAway = [
            "cannot connect to the docker daemon", "error during connect", "failed to connect to the docker api",
            "connection refused", "no such host", "unable to resolve docker endpoint",
        ].contains { small.contains($0) }
        guard !isAway else {
            return Problem(
                .failed,
                "the Docker engine at \(engine.printable) can't be reached",
                "Start it (systemctl start docker), or connect by" + " another DOCKER_HOST or DOCKER_CONTEXT."
            )
        }
        return Problem(.failed, "docker says: \(reason)", "Fix that, then try again.")
    }

    /// The last line of an error output, as a clause.
    static func reason(_ errors: String) -> String {
        let lines = errors.split(whereSeparator: \.isNewline)
            .map { String($0).printable }
            .filter { !$0.isEmpty && !$0.hasPrefix("See 'docker ") && !$0.hasPrefix("Run 'docker ") }
        var last = lines.last ?? "nothing"
        for prefix in ["docker: ", "Error response from daemon: ", "Error: "] where last.hasPrefix(prefix) {
            last.removeFirst(prefix.count)
        }
        while last.hasSuffix(".") { last.removeLast() }
        return last
    }

    /// The engine's answer to a command that names a container or object that doesn't exist.
    static func isMissing(_ errors: String) -> Bool {
        let small = errors.lowercased()
        return small.contains("no such container") || small.contains("no such object")
    }
}
