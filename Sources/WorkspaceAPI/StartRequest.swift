public import CommandText
public import Environments
public import InterceptModel

/// A start that a daemon can try: what it asks for is checked when it is made and when it is read, since a request on the
/// socket may come from any program of this user.
public struct StartRequest: Equatable, Sendable {
    public let environment: EnvironmentReference
    public let service: String
    public private(set) var kind = HoldingKind.intercept
    /// Empty only for a claim of which no more is known.
    public private(set) var mappings: [PortMapping] = []
    public private(set) var onUnavailable = OnUnavailable.original
    public private(set) var probes = Probes.original
    /// 0 to 600.
    public private(set) var drainSeconds = 10
    public private(set) var force = false
    /// Nil: local servers see this machine as the client.
    public private(set) var proxyProtocol: ProxyProtocol?
    public private(set) var carrier = CarrierChoice.auto
    /// Dialled in place of the address that the environment reports.
    public private(set) var endpoint: Endpoint?
    /// The image of the sidecars' containers, if the environment makes some; nil: this version's own.
    public private(set) var sidecarImage: String?

    public init(
        environment: EnvironmentReference,
        service: String,
        mappings: [PortMapping],
        kind: HoldingKind = .intercept,
        onUnavailable: OnUnavailable = .original,
        probes: Probes = .original,
        drainSeconds: Int = 10,
        force: Bool = false,
        proxyProtocol: ProxyProtocol? = nil,
        carrier: CarrierChoice = .auto,
        endpoint: Endpoint? = nil,
        sidecarImage: String? = nil
    ) throws(Problem) {
        self.init(claimOf: service, in: environment, as: kind)
        self.mappings = mappings
        self.onUnavailable = onUnavailable
        self.probes = probes
        self.drainSeconds = drainSeconds
        self.force = force
        self.proxyProtocol = proxyProtocol
        self.carrier = carrier
        self.endpoint = endpoint
        self.sidecarImage = sidecarImage
        try self.checkPorts()
        try self.checkOptions()
    }

    /// Stands for a claim of this workspace's that its daemon knows no more of.
    package init(
        claimOf service: String,
        in environment: EnvironmentReference,
        as kind: HoldingKind = .intercept
    ) {
        self.environment = environment
        self.service = service
        self.kind = kind
    }

    /// Whether both ask for the same, in whatever order of ports. `force` and `sidecarImage` change nothing of a running
    /// intercept.
    package func isSame(as other: StartRequest) -> Bool {
        self.kind == other.kind && self.onUnavailable == other.onUnavailable && self.probes == other.probes
            && self.drainSeconds == other.drainSeconds && self.proxyProtocol == other.proxyProtocol
            && self.carrier == other.carrier && self.endpoint == other.endpoint
            && Set(self.mappings) == Set(other.mappings)
    }

    /// The same with the other's image: another one would need another sidecar, which would end the open connections.
    package func withImage(of other: StartRequest) -> StartRequest {
        var request = self
        request.sidecarImage = other.sidecarImage
        return request
    }

    // MARK: Checks

    private func checkPorts() throws(Problem) {
        guard !self.service.isEmpty, self.service.utf8.count <= 256 else {
            throw Problem(.failed, "a service's name has 1 to 256 bytes", "Name one that is there.")
        }
        guard !self.mappings.isEmpty else {
            throw Problem(.failed, "no port is mapped", "Name one by --port, such as --port 8080:3000.")
        }
        guard self.mappings.allSatisfy({ $0.port.number > 0 && $0.target.port > 0 && !$0.target.host.isEmpty }) else {
            throw Problem(.failed, "ports are 1 to 65535", "Check the --port flags.")
        }
        guard (0...600).contains(self.drainSeconds) else {
            throw Problem(.failed, "the drain time is at most 10m", "Check the --drain flag.")
        }
    }

    private func checkOptions() throws(Problem) {
        guard self.endpoint == nil || self.carrier != .exec else { throw Self.wrongEndpoint }
        guard self.kind == .intercept || (!self.force && self.onUnavailable == .original) else {
            throw Problem(
                .failed,
                "a mirror takes nothing from others, and another side answers clients",
                "Leave out --force and --on-unavailable."
            )
        }
        guard self.sidecarImage.map({ Self.isImage($0) }) ?? true else {
            throw Problem(.failed, "--sidecar-image is an image's name, such as kl-sidecar:0.1.0.")
        }
        do throws(FlagError) {
            try Flags.checkDistinct(self.mappings)
        } catch {
            throw Problem(.failed, error.description)
        }
    }

    private static let wrongEndpoint = Problem(.failed, "--endpoint is HOST:PORT, and not for --carrier exec.")

    /// The image becomes an argument of a command, where a leading dash would make it a flag.
    package static func isImage(_ text: String) -> Bool {
        guard let first = text.utf8.first, text.utf8.count <= 512 else { return false }
        let others = "._-/:@".utf8
        func isWord(_ byte: UInt8) -> Bool {
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        }
        return isWord(first) && text.utf8.allSatisfy { isWord($0) || others.contains($0) }
    }
}

/// As JSON its values are texts. Reading throws a `Problem` if one of them is wrong.
extension StartRequest: Codable {
    private struct Wire: Codable {
        var environment: EnvironmentReference
        var service: String
        var mappings: [PortMapping]
        /// Nil: an intercept.
        var kind: String?
        /// For a mirror `none`, since another side answers clients. An earlier daemon, which doesn't know `kind`, takes that
        /// for an error, and so never intercepts a service where copies were asked for.
        var onUnavailable: String
        var probes: String
        var drainSeconds: Int
        var force: Bool
        var proxyProtocol: String?
        /// Nil: `auto`.
        var carrier: String?
        var endpoint: String?
        var sidecarImage: String?
    }

    private static let nobodyIsUnavailable = "none"

    public init(from decoder: any Decoder) throws {
        let wire = try Wire(from: decoder)
        let kind = wire.kind.map { HoldingKind(rawValue: $0) } ?? .intercept
        guard let kind else {
            throw Problem(.failed, "a start is of kind \(HoldingKind.intercept) or \(HoldingKind.mirror).")
        }
        self.init(claimOf: wire.service, in: wire.environment, as: kind)
        self.mappings = wire.mappings
        self.drainSeconds = wire.drainSeconds
        self.force = wire.force
        self.sidecarImage = wire.sidecarImage
        try self.checkPorts()
        let isMirror = kind == .mirror && wire.onUnavailable == Self.nobodyIsUnavailable
        guard let onUnavailable = isMirror ? .original : OnUnavailable(rawValue: wire.onUnavailable),
            let probes = Probes(rawValue: wire.probes)
        else {
            throw Problem(.failed, "--on-unavailable is original or refuse, --probes original or workspace.")
        }
        self.onUnavailable = onUnavailable
        self.probes = probes
        if let text = wire.proxyProtocol {
            self.proxyProtocol = ProxyProtocol(rawValue: text)
            guard self.proxyProtocol != nil else { throw Problem(.failed, "--proxy-protocol is v1 or v2.") }
        }
        guard let carrier = CarrierChoice(rawValue: wire.carrier ?? "auto") else {
            throw Problem(.failed, "--carrier is \(CarrierChoice.names).")
        }
        self.carrier = carrier
        if let text = wire.endpoint {
            self.endpoint = try? Flags.endpoint(text)
            guard self.endpoint != nil else { throw Self.wrongEndpoint }
        }
        try self.checkOptions()
    }

    public func encode(to encoder: any Encoder) throws {
        let wire = Wire(
            environment: self.environment,
            service: self.service,
            mappings: self.mappings,
            kind: self.kind == .intercept ? nil : self.kind.rawValue,
            onUnavailable: self.kind == .mirror ? Self.nobodyIsUnavailable : self.onUnavailable.rawValue,
            probes: self.probes.rawValue,
            drainSeconds: self.drainSeconds,
            force: self.force,
            proxyProtocol: self.proxyProtocol?.rawValue,
            carrier: self.carrier == .auto ? nil : self.carrier.rawValue,
            endpoint: self.endpoint?.description,
            sidecarImage: self.sidecarImage
        )
        try wire.encode(to: encoder)
    }
}

/// `{"service": 53, "transport": "udp", "host": "127.0.0.1", "port": 5353}`; without a transport it is TCP.
extension PortMapping: Codable {
    private struct Wire: Codable {
        var service: UInt16
        var transport: Transport?
        var host: String
        var port: UInt16
    }

    public init(from decoder: any Decoder) throws {
        let wire = try Wire(from: decoder)
        let target = Endpoint(host: wire.host, port: wire.port)
        self.init(ServicePort(wire.service, wire.transport ?? .tcp), to: target)
    }

    public func encode(to encoder: any Encoder) throws {
        let wire = Wire(
            service: self.port.number,
            transport: self.port.transport == .tcp ? nil : self.port.transport,
            host: self.target.host,
            port: self.target.port
        )
        try wire.encode(to: encoder)
    }
}
