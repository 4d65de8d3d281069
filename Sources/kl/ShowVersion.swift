import AgentSupport
import ArgumentParser

struct ShowVersion: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version",
        abstract: "Print the version of kl and of its tunnel protocol."
    )

    func run() {
        print(Version.text)
    }
}
