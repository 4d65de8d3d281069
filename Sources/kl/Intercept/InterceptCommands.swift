import ArgumentParser
import Environments
import InterceptModel
import WorkspaceAPI

struct InterceptCommands: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "intercept",
        abstract: "Take a service's connections to this machine, and give them back.",
        subcommands: [StartIntercept.self, ListIntercepts.self, ShowIntercept.self, StopIntercept.self],
        aliases: ["i", "int"]
    )
}

struct ListIntercepts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the environment's intercepts, also other people's.",
        aliases: ["ls"]
    )

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            var list = try await workspace.intercepts(in: try workspace.environment())
            // They have rows of their own.
            list.holders.removeAll { $0.through != nil }
            try self.output.print(list, text: list.text)
        }
    }
}

struct ShowIntercept: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show one intercept in detail, or all.",
        aliases: ["st"]
    )

    @Argument(help: "A service that is intercepted; all without it.", completion: Completion.intercepts)
    var service: String?

    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            let environment = try workspace.environment()
            var list = try await workspace.intercepts(in: environment)
            if let service = self.service {
                list.holders = list.holders.filter { $0.service == service }
                guard !list.holders.isEmpty else {
                    throw try await Problem.noIntercept(of: service, in: environment, of: list)
                }
            } else {
                list.holders.removeAll { $0.through != nil }
            }
            let text = list.holders.isEmpty ? list.text : list.holders.map(\.text).joined(separator: "\n")
            try self.output.print(list, text: text)
        }
    }
}

/// The error for a name without an intercept, which may be a service's or unknown.
extension Problem {
    static func noIntercept(
        of name: String,
        in environment: any Environments.Environment,
        of list: InterceptList
    ) async throws -> Problem {
        var services: [Environments.Service] = []
        do {
            services = try await environment.services()
        } catch let error as Problem where error.code == .notUp {
            let reason = environment.reference.notUpReason
            return Problem(.noSuchIntercept, "'\(name)' isn't intercepted, and nothing answers: \(reason)")
        } catch {
            // The words below fit whatever the environment has.
        }
        if services.isEmpty || services.contains(where: { $0.name == name }) {
            return Problem(
                .noSuchIntercept,
                "'\(name)' isn't intercepted, so the environment answers",
                "Start with: kl intercept start \(name)"
            )
        }
        return .noService(named: name, among: services, in: environment.reference)
    }

    static func noService(
        named name: String,
        among services: [Environments.Service],
        in environment: EnvironmentReference
    ) -> Problem {
        if let owner = services.first(where: { $0.hasContainer(name) }) {
            return Problem(
                .noSuchService,
                "'\(name)' is a container of service '\(owner.name)'",
                "Name the service in its place."
            )
        }
        let nearest = Suggestion.nearest(to: name, among: services.map(\.name))
        let hint = nearest.map { " Did you mean '\($0)'?" } ?? ""
        return Problem(
            .noSuchService,
            "service '\(name)' isn't in environment '\(environment.name)'.\(hint) (kl env status lists them)"
        )
    }
}
