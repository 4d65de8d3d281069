import AgentSupport
import ArgumentParser

/// The workspace agent by itself: what the CLI runs for a developer, and scripts can run alone.
@main
struct KlWorkspace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kl-workspace",
        abstract: "Take a service's connections from a sidecar to local ports.",
        version: Version.text,
        subcommands: [RunWorkspace.self]
    )

    static func main() { Self.runAsProgram() }
}
