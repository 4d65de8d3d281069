import ArgumentParser
import ComposeFiles
import Environments
import InterceptModel
import InterceptProtocol
import LocalEnvironment
import WorkspaceAPI

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
            try workspace.prepare()
            let reference = try Found.implied(self.file.file, workspace, flagOf: "up")
            let report = StepReport(isOn: self.output.isText && !self.output.quiet)
            if try LocalEnvironment(reference).isSupervised {
                report.line("Environment \(reference.name.printable) is up already.")
            } else {
                try Up.bring(reference, report)
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
            let report = StepReport(isOn: self.output.isText && !self.output.quiet)
            guard try SupervisorEnding.isNeeded(file: reference.location) else {
                report.line("Environment \(reference.name.printable) is down already.")
                if !self.output.isText { try await self.printStatus(reference, workspace) }
                return
            }
            var own: [InterceptStatus] = []
            do {
                own = try workspace.ownIntercepts().filter { $0.environment.location == reference.location }
            } catch let error as SilentDaemon {
                // The intercepts end with the environment anyway.
                self.output.warn(error.description)
            }
            if !own.isEmpty {
                let requests = own.map { StopRequest(environment: $0.environment, service: $0.service) }
                try? StopIntercept.stop(requests, workspace, self.output.quieted)
            }
            report.line("Ending environment \(reference.name.printable)")
            report.waiting("waiting for its services to end")
            _ = try report.ending {
                try SupervisorEnding.down(file: reference.location) { report.waiting($0.printable) }
            }
            report.line("Environment \(reference.name.printable) is down.")
            if !self.output.isText { try await self.printStatus(reference, workspace) }
        }
    }

    private func printStatus(_ reference: EnvironmentReference, _ workspace: Workspace) async throws {
        try self.output.print(try await EnvironmentStatus(reference, workspace), text: "")
    }
}

/// Brings an environment up and reports on each service.
enum Up {
    static func bring(_ reference: EnvironmentReference, _ report: StepReport) throws {
        let override = ComposeFile.overrideName(of: reference.location).map { " and \($0.printable)" } ?? ""
        report.line("Starting environment \(reference.name.printable) from \(reference.location.printable)\(override)")
        report.waiting("starting its services")
        let state = try report.ending {
            try SupervisorStarter(file: reference.location).up { report.waiting($0.printable) }
        }
        for service in state.services {
            let name = service.service.name.printable
            let places = service.sidecars.compactMap(\.location).flatMap(\.listens).joined(separator: ", ")
            if service.service.state == .running {
                report.done(places.isEmpty ? "\(name) running" : "\(name) running on \(places)", nil)
            } else {
                let reason = service.service.reason.map { ": \($0.printable)" } ?? ""
                report.line("  ! \(name) \(service.service.state.rawValue)\(reason)")
            }
        }
    }
}
