import Environments
import Interactive
import InterceptProtocol
import WorkspaceDaemon

/// What a person on a terminal is asked when it wasn't given. Elsewhere what is missing is an error that names the flag.
struct Asking {
    private let isAsking: Bool

    init(_ output: OutputOptions) { self.isAsking = output.isText && Terminal.isInteractive() }

    // MARK: Which environment

    func environment(of found: [FoundEnvironment]) throws -> EnvironmentReference {
        guard self.isAsking else {
            throw CommandFailure(
                .usage,
                "no environment is named. Give its name, or a compose file by --file. (kl env list lists what is found here)"
            )
        }
        guard !found.isEmpty else {
            throw CommandFailure(
                .failed,
                "no environment was found here. Name a compose file: kl env connect --file compose.yaml"
            )
        }
        let items = found.map { environment in
            PickerItem(
                "\(environment.reference.name.printable) (\(environment.state.rawValue)) - "
                    + environment.reference.location.printable,
                disabledReason: environment.reason
            )
        }
        return found[try self.one(of: items, prompt: "Select environment to connect to: ")].reference
    }

    // MARK: Which service

    func service(
        of services: [Environments.Service],
        intercepts: [InterceptView],
        in environment: EnvironmentReference
    ) throws -> Environments.Service {
        guard self.isAsking else {
            throw CommandFailure(
                .usage,
                "no service is named. Give one: kl intercept start SERVICE --port 8080:3000 (kl env status lists them)"
            )
        }
        guard !services.isEmpty else {
            throw CommandFailure(
                .failed,
                "environment '\(environment.name)' has no services. Add some to \(environment.location)"
            )
        }
        let items = services.map { service in
            let other = intercepts.first { $0.service == service.name && !$0.isOwn }
            let reason =
                service.ports.isEmpty
                ? "it has no ports" : other.map { "intercepted by \($0.workspace.printable)" }
            return PickerItem(service.pickerText, disabledReason: reason)
        }
        return services[try self.one(of: items, prompt: "Select service to intercept: ")]
    }

    // MARK: Which ports, and where to

    func mappings(
        for service: Environments.Service,
        listeningOn places: [Endpoint]
    ) throws -> [StartRequest.Mapping] {
        guard self.isAsking else {
            let example = service.ports.first.map { "\($0.published):3000" } ?? "8080:3000"
            throw CommandFailure(
                .usage,
                "no port is named. Give one by --port, such as --port \(example), or all by --all-ports."
            )
        }
        return try self.ports(of: service).map { try self.mapping(of: $0, of: service, listeningOn: places) }
    }

    private func ports(of service: Environments.Service) throws -> [Environments.Service.Port] {
        guard let first = service.ports.first else { throw PortFlags.noPorts(service) }
        let name = service.name.printable
        guard service.ports.count > 1 else {
            Terminal.say("Service '\(name)' has 1 port: \(first.text) (auto-selected)")
            return [first]
        }
        let header =
            "Service '\(name)' has \(service.ports.count) ports. Select ports to intercept (TAB to select, ENTER to confirm):"
        let picker = Picker(
            prompt: "Select ports (TAB to toggle): ",
            header: header,
            items: service.ports.map { PickerItem($0.text) },
            multiple: true
        )
        return try self.chosen(Terminal.pick(picker)).map { service.ports[$0] }
    }

    private func mapping(
        of port: Environments.Service.Port,
        of service: Environments.Service,
        listeningOn places: [Endpoint]
    ) throws -> StartRequest.Mapping {
        /// What was typed stands for, or what is wrong with it.
        @Sendable func read(_ text: String) -> Result<StartRequest.Mapping, CommandFailure> {
            do {
                let flag = try PortFlag("\(port.published):\(text)")
                let mapping = try flag.mapping(for: service)
                if let loop = PortFlags.loop(mapping, listeningOn: places) { return .failure(.init(.usage, loop)) }
                return .success(mapping)
            } catch {
                return .failure(CommandFailure(error))
            }
        }
        // Enter alone is the service's number; also that can be a mistake.
        let prompt = LinePrompt(
            prompt: "Service port \(port.text) → Workspace port [\(port.published)]: ",
            defaultAnswer: nil
        ) { text in
            if case .failure(let failure) = read(text.isEmpty ? "\(port.published)" : text) {
                return failure.description
            }
            return nil
        }
        switch try Terminal.ask(prompt) {
        case .chosen(let text): return try read(text.isEmpty ? "\(port.published)" : text).get()
        case .cancelled: throw Self.cancelled
        case .interrupted: throw Self.interrupted
        }
    }

    // MARK: Which intercept

    func intercept(of own: [InterceptView]) throws -> String {
        guard self.isAsking else {
            throw CommandFailure(
                .usage,
                "no service is named. Give one: kl intercept stop SERVICE, or --all (kl intercept list lists them)"
            )
        }
        guard !own.isEmpty else {
            throw CommandFailure(.noSuchIntercept, "you intercept nothing here. Start with: kl intercept start")
        }
        let items = own.map { intercept in
            let ports = intercept.ports.map(\.arrow).joined(separator: ", ")
            return PickerItem("\(intercept.service) (\(intercept.phase.rawValue.lowercased())) - ports: \(ports)")
        }
        return own[try self.one(of: items, prompt: "Select intercept to stop: ")].service
    }

    // MARK: Asking

    private func one(of items: [PickerItem], prompt: String) throws -> Int {
        let picker = Picker(prompt: prompt, header: nil, items: items, multiple: false)
        guard let index = try self.chosen(Terminal.pick(picker)).first, items.indices.contains(index) else {
            throw Self.cancelled
        }
        return index
    }

    private func chosen(_ result: PickerResult) throws -> [Int] {
        switch result {
        case .chosen(let indices) where !indices.isEmpty: return indices
        case .chosen, .cancelled: throw Self.cancelled
        case .interrupted: throw Self.interrupted
        }
    }

    private static let cancelled = CommandFailure(.failed, "nothing was selected, so nothing was done.")
    private static let interrupted = CommandFailure(.interrupted, "interrupted: nothing was done.")
}
