import Environments
import Interactive
import InterceptModel
import InterceptProtocol
import WorkspaceAPI

/// Asks the user at a terminal for what the command line lacks. Elsewhere, what is missing is an error that names the flag.
struct Asking {
    private let isOn: Bool
    private let mayAsk = Interview(TerminalRespondent())

    init(_ output: OutputOptions) { self.isOn = output.isText && Terminal.isInteractive() }

    /// For one conversation. Throws the error if the user can't be asked.
    private func interview(else missing: String) throws -> Interview<TerminalRespondent> {
        guard self.isOn else { throw Problem(.usage, missing) }
        return self.mayAsk
    }

    func environment(of found: [FoundEnvironment]) throws -> EnvironmentReference {
        var interview = try self.interview(
            else:
                "no environment is named. Give its name, or a compose file by --file. (kl env list lists what is found here)"
        )
        guard !found.isEmpty else {
            throw Problem(
                .failed,
                "no environment was found here",
                "Name a compose file: kl env connect --file compose.yaml"
            )
        }
        let offers = found.map {
            EnvironmentOffer(
                name: $0.reference.name,
                kind: $0.reference.kind.rawValue,
                state: $0.state.rawValue,
                place: $0.reference.location
            )
        }
        let chosen = try Self.answer(interview.environment(offers))
        guard let index = offers.firstIndex(of: chosen) else { throw Self.cancelled }
        return found[index].reference
    }

    func service(
        of services: [Environments.Service],
        intercepts: [InterceptView],
        takingOver: Bool,
        in environment: EnvironmentReference
    ) throws -> Environments.Service {
        var interview = try self.interview(
            else:
                "no service is named. Give one: kl intercept start SERVICE --port 8080:3000 (kl env status lists them)"
        )
        guard !services.isEmpty else {
            throw Problem(
                .failed,
                environment.kind == .local
                    ? "environment '\(environment.name)' has no services. Add some to \(environment.location)"
                    : "environment '\(environment.name)' has no services. Start some, then try again."
            )
        }
        let offers = services.map { service in
            let other = Self.whoHasAll(of: service, intercepts)
            return ServiceOffer(
                name: service.name,
                state: service.state.rawValue,
                ports: service.ports.map(\.offer),
                refusal: service.refusal.map { _ in service.reason ?? "no network of its own" }
                    ?? (takingOver ? nil : other.map { "intercepted by \($0.workspace)" })
            )
        }
        let chosen = try Self.answer(interview.service(offers))
        guard let index = offers.firstIndex(of: chosen) else { throw Self.cancelled }
        return services[index]
    }

    /// Nil: at least one of the service's ports can still be intercepted.
    private static func whoHasAll(of service: Environments.Service, _ holders: [InterceptView]) -> InterceptView? {
        let others = holders.filter { $0.service == service.name && !$0.isOwn && $0.kind == .intercept }
        let ports = service.ports.map { ServicePort($0.published, $0.transport ?? .tcp) }
        let hasAll = ports.allSatisfy { port in others.contains { $0.holds(port) } }
        return hasAll ? others.first : nil
    }

    func mappings(
        for service: Environments.Service,
        listeningOn places: [ListeningPlace]
    ) throws -> [PortMapping] {
        let example = service.ports.first.map { "\($0.published):3000\($0.isUDP ? "/udp" : "")" } ?? "8080:3000"
        var interview = try self.interview(
            else: "no port is named. Give one by --port, such as --port \(example), or all by --all-ports."
        )
        guard !service.ports.isEmpty else { throw PortFlags.unknownPorts(service) }
        @Sendable func mapping(_ port: PortOffer, _ local: UInt16) -> PortMapping {
            PortMapping(
                ServicePort(port.number, port.isUDP ? .udp : .tcp),
                to: Endpoint(host: "127.0.0.1", port: local)
            )
        }
        let answers = try Self.answer(
            interview.ports(of: service.name, service.ports.map(\.offer)) { port, local in
                PortFlags.loop(mapping(port, local), listeningOn: places)
            }
        )
        return answers.map { mapping($0.service, $0.workspace) }
    }

    func intercept(of own: [InterceptView]) throws -> String {
        var interview = try self.interview(
            else: "no service is named. Give one: kl intercept stop SERVICE, or --all (kl intercept list lists them)"
        )
        guard !own.isEmpty else {
            throw Problem(.noSuchIntercept, "you intercept nothing here", "Start with: kl intercept start")
        }
        let offers = own.map {
            InterceptOffer(
                service: $0.service,
                phase: $0.phase.rawValue,
                ports: $0.ports.map(\.arrow).joined(separator: ", ")
            )
        }
        return try Self.answer(interview.intercept(offers)).service
    }

    private static func answer<Answer>(_ result: DialogueResult<Answer>) throws -> Answer {
        switch result {
        case .chosen(let answer): return answer
        case .cancelled: throw Self.cancelled
        case .interrupted: throw Problem(.interrupted, "interrupted: nothing was done.")
        }
    }

    private static let cancelled = Problem(.failed, "nothing was selected, so nothing was done.")
}

extension Environments.Service.Port {
    fileprivate var offer: PortOffer { PortOffer(self.published, name: self.name, isUDP: self.isUDP) }
}
