import ArgumentParser
import InterceptModel
import ProgramSupport

/// The sidecar agent: runs next to a service, and passes its clients to a workspace or to the original.
@main
struct KlSidecar: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kl-sidecar",
        abstract: "Stand next to a service and hand its connections to a workspace.",
        version: Version.text,
        subcommands: [
            RunSidecar.self, DialSidecar.self, AdmitKey.self, LeaveSidecar.self, EndSidecar.self, ShowHolders.self,
        ]
    )

    static func main() { Self.runAsProgram() }
}
