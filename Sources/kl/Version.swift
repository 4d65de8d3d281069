import ArgumentParser

enum Version {
    static let text = "kl 0.1.0, tunnel protocol 1"
}

struct ShowVersion: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version",
        abstract: "Print the version of kl and of its tunnel protocol."
    )

    func run() {
        print(Version.text)
    }
}
