import ArgumentParser
import Environments
import InterceptProtocol

struct BringUp: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up",
        abstract: "Start a local environment: its services, and a sidecar in front of each, in the background."
    )

    @OptionGroup var file: FileOption
    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            let reference = try Found.implied(self.file.file, workspace, flagOf: "up")
            var report = StepReport(isOn: self.output.isText && !self.output.quiet)
            if try LocalEnvironment(reference).isUp {
                report.line("Environment \(reference.name.printable) is up already.")
            } else {
                try Up.bring(reference, workspace, &report)
            }
            try workspace.remember(reference)
            let status = try await EnvironmentStatus(reference, workspace)
            if !self.output.isText { try self.output.print(status, text: "") }
        }
    }
}

struct TakeDown: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down",
        abstract: "End a local environment: its services and its sidecars. Intercepts in it end too."
    )

    @OptionGroup var file: FileOption
    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await self.output.reporting {
            let workspace = try Workspace(self.output)
            let reference = try Found.implied(self.file.file, workspace, flagOf: "down")
            var report = StepReport(isOn: self.output.isText && !self.output.quiet)
            let environment = try LocalEnvironment(reference)
            guard try environment.hasAnythingRunning else {
                report.line("Environment \(reference.name.printable) is down already.")
                if !self.output.isText { try await self.printStatus(reference, workspace) }
                return
            }
            let own = try workspace.ownIntercepts().filter { $0.environment.location == reference.location }
            if !own.isEmpty {
                let requests = own.map { StopRequestOf.intercept($0) }
                try? StopIntercept.stop(requests, workspace, QuietOutput.of(self.output))
            }
            report.line("Ending environment \(reference.name.printable)")
            try SupervisorStarter.takeDown(reference) { report.done($0, nil) }
            report.line("Environment \(reference.name.printable) is down.")
            if !self.output.isText { try await self.printStatus(reference, workspace) }
        }
    }

    private func printStatus(_ reference: EnvironmentReference, _ workspace: Workspace) async throws {
        try self.output.print(try await EnvironmentStatus(reference, workspace), text: "")
    }
}

/// Brings an environment up and tells of each service.
enum Up {
    static func bring(
        _ reference: EnvironmentReference,
        _ workspace: Workspace,
        _ report: inout StepReport
    ) throws {
        report.line("Starting environment \(reference.name.printable) from \(reference.location.printable)")
        report.waiting("waiting for its services")
        try report.ending { report in
            try SupervisorStarter.bringUp(reference) { report.done($0, nil) }
        }
    }
}
