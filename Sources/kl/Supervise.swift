import ArgumentParser
import Environments
import HostSupport
import InterceptModel
import LocalEnvironment
import Logging

/// The supervisor of a local environment, which `kl env up` starts; users don't type this command.
struct Supervise: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supervise",
        abstract: "Keep a local environment up; started by kl env up.",
        shouldDisplay: false
    )

    @Option(help: ArgumentHelp("The compose file.", valueName: "file"))
    var file: String

    func run() {
        let handler = LineLogHandler(label: "kl supervise", format: .text, level: .info)
        SupervisorProcess.run(
            file: self.file,
            version: Version.number,
            log: Logger(label: "kl supervise") { _ in handler }
        )
    }
}
