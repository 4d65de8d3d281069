import ArgumentParser
import InterceptModel
import Libc
import ProgramSupport

/// Brings a developer's connections from an environment to this machine, and back.
@main
struct Kl: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kl",
        abstract: "Intercept services of an environment from your workspace.",
        discussion: """
            kl env connect demo, then kl intercept start api-server --port 8080:3000: what others send to \
            api-server:8080 reaches localhost:3000 of this machine, until kl intercept stop api-server.
            """,
        version: Version.text,
        subcommands: [
            EnvironmentCommands.self, InterceptCommands.self, PrintCompletion.self, GenerateKey.self,
            ShowPublicKey.self,
            GeneratePresharedKey.self, Doctor.self, ShowVersion.self, Supervise.self, DaemonCommand.self,
        ]
    )

    static func main() {
        // If the reader of a command's output goes away, the command still finishes its work.
        signal(SIGPIPE, SIG_IGN)
        Self.runAsProgram { MistypedCommand.hint($0) }
    }
}
