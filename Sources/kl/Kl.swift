import AgentSupport
import ArgumentParser

/// Takes a developer's connections out of an environment and back.
@main
struct Kl: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kl",
        abstract: "Intercept services of an environment from your workspace.",
        version: Version.text,
        subcommands: [GenerateKey.self, ShowPublicKey.self, GeneratePresharedKey.self, ShowVersion.self]
    )

    static func main() { Self.runAsProgram() }
}
