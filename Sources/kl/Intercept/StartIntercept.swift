import ArgumentParser
import CommandText
import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import NIOCore
import WorkspaceAPI

struct StartIntercept: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start",
        abstract: "Let a service's connections come to this machine.",
        discussion: """
            On a terminal, what isn't given is asked for. When your server isn't listening, when this machine sleeps or \
            the network goes, the original service answers.
            """,
        aliases: ["s", "begin"]
    )

    @Argument(help: "The service, as kl env status lists it.", completion: Completion.services)
    var service: String?

    @Option(
        name: .joinedShortAndLong("p"),
        help: ArgumentHelp(
            "A port of the service, by number or name, and which port here answers: 8080:3000, 8080 for the same one, "
                + "8080:HOST:3000 for another machine, 53:5353/udp for UDP; may be repeated.",
            valueName: "service:local"
        ),
        transform: { try PortFlag($0) }
    )
    var port: [PortFlag] = []

    @Flag(help: "Intercept all ports of the service, each to the port of the same number here.")
    var allPorts = false

    @Flag(help: "Get a copy of what clients send, and leave the answers to whichever side gives them now.")
    var mirror = false

    @Option(
        help: ArgumentHelp(
            "How long open connections may take when the intercept ends; at most 10m. (default: 10s)",
            valueName: "time"
        ),
        transform: TimeAmount.drainFlag
    )
    var drain: TimeAmount?

    @Option(help: "What clients get when the local server can't be reached: the original service, or a reset (refuse).")
    var onUnavailable: OnUnavailable = .original

    @Option(help: "Who answers health probes, where a sidecar can tell them: original or workspace.")
    var probes: Probes = .original

    @Option(
        help: "Tell the local servers each client's address by a PROXY protocol header before its bytes: v1 or v2."
    )
    var proxyProtocol: ProxyProtocol?

    @Option(
        help: ArgumentHelp(
            "By which way the sidecar is dialled: udp or tcp, by its addresses; exec, by the environment's command; auto, "
                + "whatever leads there, UDP before all else.",
            valueName: CarrierChoice.allCases.map(\.rawValue).joined(separator: "|")
        ),
        completion: .list(CarrierChoice.allCases.map(\.rawValue)),
        transform: { try CarrierChoice(flag: $0) }
    )
    var carrier: CarrierChoice = .auto

    @Option(
        help: ArgumentHelp(
            "Dial the sidecar here, in place of the address that the environment tells.",
            valueName: "host:port"
        ),
        transform: { try Flags.endpoint($0) }
    )
    var endpoint: Endpoint?

    @Option(
        help: ArgumentHelp(
            "The image of the sidecar's container, where services run in containers; it must be there, none is pulled.",
            valueName: "image"
        )
    )
    var sidecarImage: String?

    @Flag(help: "Take the service over from the workspace that intercepts it.")
    var force = false

    @Flag(help: "Stay, say what changes, and stop the intercept on Ctrl-C.")
    var foreground = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        if self.allPorts, !self.port.isEmpty {
            throw ValidationError("--all-ports and --port exclude each other. Give one of them.")
        }
        if self.mirror, let flag = self.flagAgainstMirror {
            throw ValidationError("\(flag) Leave it out, or --mirror.")
        }
        if self.carrier == .exec, self.endpoint != nil {
            throw ValidationError("--carrier exec dials no address. Leave out --endpoint, or take another carrier.")
        }
        if self.foreground, !self.output.isText {
            throw ValidationError(
                "--foreground prints lines for people. Leave --output out, or follow with kl intercept status."
            )
        }
    }

    /// Why a flag makes no sense with a mirror: a mirror takes no port from a workspace, and no client's connection ends with
    /// it.
    private var flagAgainstMirror: String? {
        if self.force { return "--force takes a service from another workspace, and a mirror takes nothing." }
        if self.onUnavailable == .refuse {
            return "--on-unavailable refuse is for clients that come to you, not for copies."
        }
        if self.drain != nil { return "--drain is for connections that you answer, and a mirror answers none." }
        return nil
    }

    func run() async throws {
        try await self.output.reporting {
            _ = Interrupt.descriptor
            let workspace = try Workspace(self.output)
            let environment = try workspace.environment()
            let services = try await environment.services()
            let service = try await self.chosenService(of: services, in: environment, workspace)
            if let refusal = service.refusal { throw Problem(.failed, refusal) }
            if environment.makesSidecars, service.state == .running || service.state == .starting,
                let reason = service.reason
            {
                self.output.warn("'\(service.name)' is intercepted as it is: \(reason).")
            }
            let mappings = try await self.chosenMappings(for: service, in: environment)
            let request = try StartRequest(
                environment: environment.reference,
                service: service.name,
                mappings: mappings,
                kind: self.mirror ? .mirror : .intercept,
                onUnavailable: self.onUnavailable,
                probes: self.probes,
                drainSeconds: Int(((self.drain ?? .seconds(10)).nanoseconds + 999_999_999) / 1_000_000_000),
                force: self.force,
                proxyProtocol: self.proxyProtocol,
                carrier: self.carrier,
                endpoint: self.endpoint,
                sidecarImage: self.sidecarImage ?? Self.imageOfVariable ?? environment.reference.kubernetes?.image
            )
            try await SidecarImage.offer(request, self.output)
            var warnings = PortFlags.undeclared(mappings, of: service)
            if environment.reference.kind == .kubernetes, service.state == .starting {
                let why = service.reason.map { " (\($0))" } ?? ""
                warnings.append("no pod of '\(service.name)' is ready\(why): until one is, clients are sent to none.")
            }
            try await self.start(request, workspace, environment, warnings: warnings)
            if self.foreground { try self.stay(request, workspace) }
        }
    }

    /// `KL_SIDECAR_IMAGE`, for users who always use another image.
    private static var imageOfVariable: String? {
        Spawn.ownEnvironment["KL_SIDECAR_IMAGE"].flatMap { $0.isEmpty ? nil : $0 }
    }

    // MARK: Choices

    private func chosenService(
        of services: [Environments.Service],
        in environment: any Environments.Environment,
        _ workspace: Workspace
    ) async throws -> Environments.Service {
        guard let name = self.service else {
            let intercepts = try await workspace.intercepts(in: environment).holders
            return try Asking(self.output).service(
                of: services,
                intercepts: intercepts,
                takingOver: self.force || self.mirror,
                in: environment.reference
            )
        }
        guard let service = services.first(where: { $0.name == name }) else {
            throw Problem.noService(named: name, among: services, in: environment.reference)
        }
        return service
    }

    private func chosenMappings(
        for service: Environments.Service,
        in environment: any Environments.Environment
    ) async throws -> [PortMapping] {
        // Where clients reach the service, as far as its sidecars are up: a local target there would make a circle.
        let places = ((try? await environment.sidecars(of: service.name)) ?? [])
            .flatMap(\.listens)
            .appending(service.places ?? [])
            .compactMap { try? ListeningPlace($0) }
        guard self.port.isEmpty else {
            return try PortFlags.mappings(self.port, for: service, listeningOn: places)
        }
        guard !self.allPorts else {
            let all = try service.ports.map { try PortFlag("\($0.published)\($0.isUDP ? "/udp" : "")") }
            guard !all.isEmpty else { throw PortFlags.unknownPorts(service) }
            return try PortFlags.mappings(all, for: service, listeningOn: places)
        }
        return try Asking(self.output).mappings(for: service, listeningOn: places)
    }

    // MARK: Starting

    private func start(
        _ request: StartRequest,
        _ workspace: Workspace,
        _ environment: any Environments.Environment,
        warnings: [String]
    ) async throws {
        let says = self.output.isText && !self.output.quiet
        let report = StepReport(isOn: says)
        let words = StartWords(request)
        report.line("\(words.begins) \(request.service) in environment \(request.environment.name.printable)")
        var steps: [StepView] = []
        var warnings = warnings
        if let doubled = words.warning { warnings.append(doubled) }
        report.waiting("waiting for the sidecar")
        let status = try report.ending {
            try workspace.daemon().perform(
                .start(request, variables: request.environment.shellVariables),
                interrupted: "interrupted: \(request.service) is as it was before",
                isCancellable: true
            ) { step in
                if step.event == .waitsForDrain {
                    return report.waiting("waiting for open connections of the intercept before to end")
                }
                steps.append(StepView(name: step.name, seconds: step.seconds))
                switch step.event {
                case .sidecarRunning:
                    report.done("sidecar running next to \(request.service)", step.seconds)
                    report.waiting("waiting for the tunnel")
                case .tunnelUp(let sidecars):
                    report.done("tunnel up: \(Self.tunnelText(sidecars))", step.seconds)
                    report.waiting("waiting for a probe to come back through it")
                case .portMapped(let mapping):
                    report.done("\(words.what)port \(mapping.port) → \(mapping.target.shown)", nil)
                case .localServerMissing(let mapping):
                    let warning =
                        "nothing is listening on \(mapping.target.shown) yet: until it does, \(words.withoutServer)."
                    // Several service ports may lead to the same local one.
                    if !warnings.contains(warning) { warnings.append(warning) }
                case .waitsForDrain, .originalAnswers, .holdersAnswer, .nothingAnswers, .copiesEnded, .drained: break
                }
            }
        }
        guard let status else { throw Problem(.failed, "the daemon told nothing of the intercept", "Try again.") }
        let intercept = InterceptView(
            status,
            holder: try workspace.identity().of(status.service, in: status.environment).member
        )
        if let seen = intercept.originalSees?.news { warnings.append("the original \(seen).") }
        let view = StartView(
            intercept: intercept,
            steps: steps,
            warnings: warnings
        )
        guard self.output.isText else { return try self.output.print(view, text: "") }
        let holders =
            says && self.mirror ? await workspace.holders(of: request.service, in: environment) : []
        report.line(words.done(holders))
        for warning in warnings { self.output.warn(warning) }
        if !self.foreground { report.line("Stop with: kl intercept stop \(request.service)") }
    }

    /// "tcp 127.0.0.1:51820, peer 3Jx5…4Q=, rtt 0.3 ms"
    private static func tunnelText(_ sidecars: [SidecarStatus]) -> String {
        guard let first = sidecars.first else { return "-" }
        var text = "\(first.carrier.rawValue) \(first.shortAddress), peer \(first.publicKey.abbreviatedKey)"
        if let rtt = first.rttMs { text += ", rtt \(Times.fixed(rtt, 1)) ms" }
        if sidecars.count > 1 { text += ", and \(sidecars.count - 1) more" }
        return text
    }

    /// Prints changes until Ctrl-C or the intercept's end.
    private func stay(_ request: StartRequest, _ workspace: Workspace) throws {
        let report = StepReport(isOn: !self.output.quiet)
        report.line("Stop with Ctrl-C.")
        var last: InterceptStatus?
        var isOver = false
        try workspace.daemon().follow(request.service) { status in
            for line in ForegroundNews.lines(from: last, to: status) { report.line(line) }
            last = status
            isOver = status.phase == .failed || status.phase == .stopping
            return !isOver
        }
        if isOver {
            throw Problem(.failed, "the intercept is over: \((last?.reason ?? "it was stopped").printable)")
        }
        Interrupt.forget()
        let stop = StopRequest(environment: request.environment, service: request.service)
        try StopIntercept.stop([stop], workspace, self.output)
    }
}

extension Array {
    fileprivate func appending(_ others: [Element]) -> [Element] { self + others }
}
