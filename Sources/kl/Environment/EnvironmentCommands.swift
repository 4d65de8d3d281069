import ArgumentParser

struct EnvironmentCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "env",
        abstract: "Find environments, bring them up, connect to one.",
        subcommands: [
            ListEnvironments.self, ConnectEnvironment.self, ShowEnvironment.self, BringUp.self, TakeDown.self,
            DisconnectEnvironment.self,
        ],
        aliases: ["e", "environment"]
    )
}

/// Which local environment is meant.
struct FileOption: ParsableArguments {
    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("The compose file of a local environment.", valueName: "compose.yaml"),
        completion: .file(extensions: ["yaml", "yml"])
    )
    var file: String?
}
