import ArgumentParser
import Environments
import InterceptModel
import InterceptProtocol
import NIOCore
import WorkspaceAPI

struct StopIntercept: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop",
        abstract: "Give a service's connections back to the original.",
        aliases: ["sp", "end"]
    )

    @Argument(help: "A service that you intercept.", completion: Completion.intercepts)
    var service: String?

    @Flag(help: "Stop all of your intercepts in this environment.")
    var all = false

    @Option(
        help: ArgumentHelp(
            "How long open connections may still take; at most 10m. As start had it, if not given.",
            valueName: "time"
        ),
        transform: TimeAmount.drainFlag
    )
    var drain: TimeAmount?

    @OptionGroup var output: OutputOptions

    func validate() throws {
        if self.all, self.service != nil {
            throw ValidationError("--all stops every intercept, so a service can't be named too. Give one of them.")
        }
    }

    func run() async throws {
        try await self.output.reporting {
            _ = Interrupt.descriptor
            let workspace = try Workspace(self.output)
            let environment = try workspace.environment()
            var services: [String]
            let held = try self.service.map { try Self.holding($0, in: environment.reference, workspace) }
            if case .daemon = held, let service = self.service {
                // Don't ask the environment first: that would delay the stop, while clients still come here.
                services = [service]
            } else {
                let silent: SilentDaemon? = if case .unknown(let silent) = held { silent } else { nil }
                let list = try await workspace.intercepts(in: environment, silent: silent)
                let own = list.holders.filter { $0.isOwn && $0.through == nil }
                if self.all {
                    services = own.map(\.service)
                } else if let service = self.service {
                    try await self.check(service, in: environment, list)
                    services = [service]
                } else {
                    services = [try Asking(self.output).intercept(of: own)]
                }
            }
            if services.isEmpty {
                let view = StopView(environment: environment.reference.name, stopped: [])
                return try self.output.print(view, text: "You intercept nothing in environment \(view.environment).\n")
            }
            services.sort()
            let seconds = self.drain.map { Int(($0.nanoseconds + 999_999_999) / 1_000_000_000) }
            let requests = services.map {
                StopRequest(environment: environment.reference, service: $0, drainSeconds: seconds)
            }
            try Self.stop(requests, workspace, self.output)
        }
    }

    private enum Holding {
        /// This workspace's daemon has the intercept, in force or being started.
        case daemon
        case others
        case unknown(SilentDaemon)
    }

    private static func holding(
        _ service: String,
        in environment: EnvironmentReference,
        _ workspace: Workspace
    ) throws -> Holding {
        do {
            let isHeld = try workspace.ownIntercepts(within: Workspace.listPatience).contains {
                $0.service == service && $0.environment == environment && $0.phase != .failed
            }
            return isHeld ? .daemon : .others
        } catch let silent as SilentDaemon {
            return .unknown(silent)
        }
    }

    private func check(
        _ service: String,
        in environment: any Environments.Environment,
        _ list: InterceptList
    ) async throws {
        // After a take-over there may be two: the new holder's, and the remains of this workspace's.
        let found = list.holders.filter { $0.service == service }
        guard
            let intercept = found.first(where: \.isOwn) ?? found.first(where: { $0.kind == .intercept }) ?? found.first
        else {
            throw try await Problem.noIntercept(of: service, in: environment, of: list)
        }
        if intercept.isOwn, let through = intercept.through {
            throw Problem(
                .noSuchIntercept,
                "you intercept '\(service)' through '\(through.printable)', which has the same pods",
                "Stop that: kl intercept stop \(through.shellQuoted)"
            )
        }
        guard intercept.isOwn else {
            let since = "\(intercept.workspace.printable) since \(Times.short(intercept.since)), not by you"
            guard intercept.kind == .intercept else {
                throw Problem(.busy, "'\(service)' is mirrored by \(since)", "Ask them to stop it.")
            }
            let ports = intercept.ports.map {
                " -p \($0.service):LOCAL_PORT\(Transport(rawValue: $0.transport)?.suffix ?? "")"
            }.joined()
            throw Problem(
                .busy,
                "'\(service)' is intercepted by \(since)",
                "Ask them to stop it, or take it over: kl intercept start \(service)\(ports) --force"
            )
        }
    }

    /// Stops one after the other. If several fail, the first failure is thrown after all have been tried.
    static func stop(_ requests: [StopRequest], _ workspace: Workspace, _ output: OutputOptions) throws {
        var stopped: [StopView.Stopped] = []
        var failure: Problem?
        let own = try workspace.member().label
        let report = StepReport(isOn: output.isText && !output.quiet)
        for request in requests {
            if requests.count > 1 { report.line("Stopping \(request.service)") }
            report.waiting("waiting for the sidecar")
            let daemon = try report.endingOnError { try workspace.daemon() }
            do {
                let one = try Self.stop(request, daemon, as: own, report)
                stopped.append(one)
                report.line(one.sentence(for: own))
            } catch let error as Problem where error.code != .interrupted {
                if failure == nil { failure = error }
                if requests.count > 1 { output.warn(ProblemView(error).description) }
            }
        }
        if !output.isText {
            let name = requests.first?.environment.name ?? ""
            if failure == nil { try output.print(StopView(environment: name, stopped: stopped), text: "") }
        }
        if let failure { throw failure }
    }

    private static func stop(
        _ request: StopRequest,
        _ daemon: DaemonConversation,
        as own: String,
        _ report: StepReport
    ) throws -> StopView.Stopped {
        var result = StopView.Stopped(
            service: request.service,
            total: 0,
            passed: 0,
            drained: 0,
            reset: 0,
            bytesIn: 0,
            bytesOut: 0,
            steps: []
        )
        let status = try report.ending {
            try daemon.perform(
                .stop(request, variables: request.environment.shellVariables),
                interrupted: "interrupted: \(request.service) is given back all the same, and what is open drains",
                isCancellable: false
            ) { step in
                result.steps.append(StepView(name: step.name, seconds: step.seconds))
                switch step.event {
                case .originalAnswers(let others):
                    result.holders = others.isEmpty ? nil : others
                    report.done("new connections reach the original service", step.seconds)
                    report.waiting("waiting for open connections to finish")
                case .holdersAnswer(let others):
                    result.holders = others
                    result.isTakenOver = true
                    let names = others.map { $0.shown(to: own) }.joined(separator: " and ")
                    report.done("new connections reach \(names)", step.seconds)
                    report.waiting("waiting for open connections to finish")
                case .nothingAnswers(let why):
                    let reason = (why ?? "it doesn't run").printable
                    result.reason = reason
                    report.line("  ! nothing answers for \(request.service): \(reason)")
                case .copiesEnded:
                    result.kind = .mirror
                    report.done("nothing more is copied", step.seconds)
                case .drained(let open, let reset):
                    (result.drained, result.reset) = (open, reset)
                    if open > 0, result.kind == .intercept { report.done(Self.drainText(result), step.seconds) }
                case .waitsForDrain, .sidecarRunning, .tunnelUp, .portMapped, .localServerMissing: break
                }
            }
        }
        if let status {
            result.total = status.total
            result.passed = status.passed
            result.behind = status.behind
            result.bytesIn = status.bytesIn
            result.bytesOut = status.bytesOut
        }
        return result
    }

    private static func drainText(_ result: StopView.Stopped) -> String {
        let finished = result.drained - min(result.drained, result.reset)
        let text = "\(finished) open connection\(finished == 1 ? "" : "s") finished"
        return result.reset == 0 ? text : text + ", \(result.reset) cut off when the drain time was over"
    }
}
