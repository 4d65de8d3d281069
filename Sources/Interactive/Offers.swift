/// An environment that the user can connect to.
public struct EnvironmentOffer: Equatable, Sendable {
    public var name: String
    /// `local`, `docker`
    public var kind: String
    public var state: String
    /// Its location: the compose file, or Docker's project or network with its engine.
    public var place: String?

    public init(name: String, kind: String, state: String, place: String? = nil) {
        self.name = name
        self.kind = kind
        self.state = state
        self.place = place
    }

    /// `demo (local, running) - compose.yaml`
    public var line: String {
        "\(self.name) (\(self.kind), \(self.state))" + (self.place.map { " - \($0)" } ?? "")
    }
}

/// A service that can be intercepted, or that can't for the reason in `refusal`.
public struct ServiceOffer: Equatable, Sendable {
    public var name: String
    public var state: String
    public var ports: [PortOffer]
    /// `intercepted by ada@thinkpad`
    public var refusal: String?

    public init(name: String, state: String, ports: [PortOffer], refusal: String? = nil) {
        self.name = name
        self.state = state
        self.ports = ports
        self.refusal = refusal
    }

    /// `api-server (running) - ports: 8080, 9090`
    public var line: String {
        let ports = self.ports.map(\.text).joined(separator: ", ")
        return "\(self.name) (\(self.state)) - \(self.ports.isEmpty ? "no ports" : "ports: \(ports)")"
    }
}

/// A port of a service.
public struct PortOffer: Equatable, Sendable {
    public var number: UInt16
    public var name: String?
    public var isUDP: Bool

    public init(_ number: UInt16, name: String? = nil, isUDP: Bool = false) {
        self.number = number
        self.name = name
        self.isUDP = isUDP
    }

    /// `8080`, `53/udp`
    public var text: String { "\(self.number)\(self.isUDP ? "/udp" : "")" }

    /// `8080 (http)`
    public var line: String { self.text + (self.name.map { " (\($0))" } ?? "") }
}

/// An intercept that can be stopped.
public struct InterceptOffer: Equatable, Sendable {
    public var service: String
    public var phase: String
    /// `8080 → 3000`
    public var ports: String?

    public init(service: String, phase: String, ports: String? = nil) {
        self.service = service
        self.phase = phase
        self.ports = ports
    }

    /// `api-server (Active) - 8080 → 3000`
    public var line: String { "\(self.service) (\(self.phase))" + (self.ports.map { " - \($0)" } ?? "") }
}

/// The user's answer: the local port for a service's port.
public struct PortAnswer: Equatable, Sendable {
    public var service: PortOffer
    /// The port on the developer's machine.
    public var workspace: UInt16

    public init(service: PortOffer, workspace: UInt16) {
        self.service = service
        self.workspace = workspace
    }
}
