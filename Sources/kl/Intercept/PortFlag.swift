import CommandText
import Environments
import InterceptModel
import InterceptProtocol
import WorkspaceAPI

/// A `--port` flag as it was typed: `8080:3000`, `8080`, `http`, `http:3000`, `8080:HOST:3000`, each optionally followed by
/// `/tcp` or `/udp`.
struct PortFlag {
    /// The service's port: a number or a name.
    enum Service: Equatable {
        case number(UInt16)
        case name(String)
    }

    let text: String
    let service: Service
    /// Nil: TCP for a number, the named port's own transport for a name.
    let transport: Transport?
    /// Nil: the same port number, on this machine.
    let target: Endpoint?

    init(_ text: String) throws {
        self.text = text
        let (body, transport) = try Flags.transport(text)
        self.transport = text.contains("/") ? transport : nil
        let pieces = try Flags.pieces(body)
        guard let first = pieces.first, !first.isEmpty, pieces.count <= 3 else { throw Self.malformed(text) }
        if first.utf8.allSatisfy({ (48...57).contains($0) }) {
            self.service = .number(try Flags.port(first))
        } else if first.first == "-" {
            throw Self.malformed(text)
        } else {
            self.service = .name(String(first))
        }
        switch pieces.count {
        case 1: self.target = nil
        case 2: self.target = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[1]))
        default:
            guard !pieces[1].isEmpty else { throw Self.malformed(text) }
            let host = pieces[1] == "localhost" ? "127.0.0.1" : String(pieces[1])
            self.target = Endpoint(host: host, port: try Flags.port(pieces[2]))
        }
    }

    private static func malformed(_ text: String) -> FlagError {
        FlagError("'\(text)' isn't a port mapping. Write SERVICE_PORT:LOCAL_PORT, such as 8080:3000.")
    }

    /// Resolves the flag for a service: turns a name into a number, and throws if the service has no such port.
    func mapping(for service: Environments.Service) throws(Problem) -> PortMapping {
        var port: Environments.Service.Port?
        switch self.service {
        case .number(let number):
            port = service.ports.first { $0.published == number && $0.isUDP == (self.transport == .udp) }
        case .name(let name):
            port = service.ports.first { port in
                port.name == name && self.transport.map { $0 == port.transport ?? .tcp } ?? true
            }
        }
        if port == nil { port = try self.unknownPort(of: service) }
        guard let port else {
            let ports = service.ports.map(\.text).joined(separator: ", ")
            let wanted =
                switch self.service {
                case .number(let number): "port \(number)\(self.transport?.suffix ?? "")"
                case .name(let name): "port named '\(name)'"
                }
            guard !service.ports.isEmpty else { throw PortFlags.unknownPorts(service) }
            throw Problem(.usage, "'\(service.name)' has no \(wanted)", "It has \(ports).")
        }
        let target = self.target ?? Endpoint(host: "127.0.0.1", port: port.published)
        return PortMapping(ServicePort(port.published, port.transport ?? .tcp), to: target)
    }

    /// A container may listen on ports that it doesn't declare, so any number is accepted, except one at which the engine's
    /// machine publishes a port: that isn't a port of the container, and no client connects to it there.
    private func unknownPort(
        of service: Environments.Service
    ) throws(Problem) -> Environments.Service.Port? {
        guard service.mayHaveOtherPorts == true, case .number(let number) = self.service else { return nil }
        let published = Set(
            (service.publications ?? []).filter { publication in
                publication.host == number && self.transport.map { $0 == publication.port.transport } ?? true
            }.map(\.port)
        ).sorted()
        if let first = published.first {
            // A local target of the same number may be the place where clients reach the service, if the engine runs on
            // this machine; so don't suggest it.
            let target = self.target.flatMap { $0.host == "127.0.0.1" && $0.port == number ? nil : $0 }
            let local = target.map { $0.host == "127.0.0.1" ? "\($0.port)" : "\($0)" } ?? "3000"
            let other = "\(first.number):\(local)\(first.transport.suffix)"
            throw Problem(
                .usage,
                "\(number) is where the engine's machine publishes port \(published.map { "\($0)" }.joined(separator: " and "))"
                    + " of '\(service.name)', and no port of its own",
                "Name that one," + " \(target == nil ? "with a local port, as in" : "as in") --port \(other)"
            )
        }
        return Environments.Service.Port(published: number, target: number, transport: self.transport ?? .tcp)
    }
}

/// Resolves several `--port` flags together.
enum PortFlags {
    static func noPorts(_ service: Environments.Service) -> Problem {
        Problem(
            .usage,
            "'\(service.name)' has no ports, so there is nothing to intercept",
            "Give it ports in its compose file."
        )
    }

    /// The error for a service that declares no ports.
    static func unknownPorts(_ service: Environments.Service) -> Problem {
        guard service.mayHaveOtherPorts == true else { return Self.noPorts(service) }
        return Problem(
            .usage,
            "'\(service.name)' declares no ports",
            "Give the number of one that it listens on, such as --port 8080:3000."
        )
    }

    /// A warning for each port that the service doesn't declare: the service may listen there, or the number may be a
    /// mistake.
    static func undeclared(_ mappings: [PortMapping], of service: Environments.Service) -> [String] {
        let declared = service.ports.map {
            ServicePort($0.published, $0.transport ?? .tcp)
        }
        let list = service.ports.map(\.text).joined(separator: ", ")
        return mappings.map(\.port).filter { !declared.contains($0) }.map { port in
            "'\(service.name)' \(list.isEmpty ? "doesn't declare \(port)" : "declares \(list), not \(port)"): if nothing of it"
                + " listens there, nothing comes to you."
        }
    }

    static func mappings(
        _ flags: [PortFlag],
        for service: Environments.Service,
        listeningOn places: [ListeningPlace]
    ) throws(Problem) -> [PortMapping] {
        var result: [PortMapping] = []
        var seen: [ServicePort: String] = [:]
        for flag in flags {
            let mapping = try flag.mapping(for: service)
            if let other = seen.updateValue(flag.text, forKey: mapping.port) {
                throw Problem(
                    .usage,
                    "'\(other)' and '\(flag.text)' are for the same port of '\(service.name)'",
                    "Give each port once."
                )
            }
            if let problem = Self.loop(mapping, listeningOn: places) { throw Problem(.usage, problem) }
            result.append(mapping)
        }
        return result
    }

    /// If the target is the place where clients reach the service itself, each connection would come back in a circle.
    static func loop(_ mapping: PortMapping, listeningOn places: [ListeningPlace]) -> String? {
        let isLoop = places.contains { place in
            guard place.endpoint.port == mapping.target.port, place.transport == mapping.port.transport else {
                return false
            }
            let local = ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::"]
            let host = place.endpoint.host
            return host == mapping.target.host || (local.contains(host) && local.contains(mapping.target.host))
        }
        guard isLoop else { return nil }
        return
            "\(mapping.target.shown) is where clients reach the service itself, so connections would go in a circle. Give another "
            + "local port, such as \(mapping.port.number):\(mapping.target.port == 3000 ? 3001 : 3000)"
            + "\(mapping.port.transport.suffix)."
    }
}

/// An address at which clients reach a service: `127.0.0.1:8080`, `127.0.0.1:53/udp`.
struct ListeningPlace {
    var endpoint: Endpoint
    var transport: Transport

    init(_ endpoint: Endpoint, _ transport: Transport = .tcp) {
        self.endpoint = endpoint
        self.transport = transport
    }

    init(_ text: String) throws(FlagError) {
        let (body, transport) = try Flags.transport(text)
        self.init(try Flags.endpoint(body), transport)
    }
}
