import ArgumentParser
import InterceptModel
import ProgramSupport

/// The workspace agent as a program of its own, for use in scripts.
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
