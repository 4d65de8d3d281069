import ArgumentParser
import Environments

struct ListEnvironments: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract:
            "List the environments found: compose files in this folder and above it, those used before, Docker's projects, and kubectl's contexts.",
        aliases: ["ls"]
    )

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            let connected = try workspace.connectedReference()
            let list = EnvironmentList(
                environments: try await Found(workspace).all.map {
                    .init(
                        name: $0.reference.name,
                        kind: $0.reference.kind.rawValue,
                        state: $0.state.rawValue,
                        reason: $0.reason,
                        location: $0.reference.location,
                        isConnected: $0.reference.location == connected?.location
                    )
                }
            )
            try self.output.print(list, text: list.text)
        }
    }
}
