public import Environments
public import InterceptModel

/// Another workspace, and which ports of a service it intercepts.
public struct PortHolder: Codable, Equatable, Sendable {
    public var workspace: String
    /// Base64.
    public var publicKey: String
    /// `8080`, `53/udp`
    public var ports: [String]

    public init(_ holder: Member, ports: [ServicePort]) {
        self.workspace = holder.label
        self.publicKey = holder.publicKey
        self.ports = ports.map { "\($0)" }
    }
}

/// Progress of a start or a stop.
public struct Step: Equatable, Sendable {
    public enum Event: Equatable, Sendable {
        // Of a start.
        /// The previous intercept's open connections are still being drained.
        case waitsForDrain
        case sidecarRunning
        case tunnelUp([SidecarStatus])
        case portMapped(PortMapping)
        case localServerMissing(PortMapping)
        // Of a stop.
        /// - `besides`: who intercepts other ports of the service.
        case originalAnswers(besides: [PortHolder] = [])
        /// In place of `originalAnswers`, if others intercept all ports of this intercept by now, as after a take-over.
        case holdersAnswer([PortHolder])
        /// In place of `originalAnswers`, if there is no original that could answer; why, as a clause.
        case nothingAnswers(because: String?)
        /// In place of `originalAnswers`, at the stop of a mirror: nothing more is copied.
        case copiesEnded
        /// How many connections were open at the stop, and how many of them had to be reset.
        case drained(open: UInt64, reset: UInt64)
    }

    public let event: Event
    /// How long it took.
    public let seconds: Double

    public init(_ event: Event, seconds: Double = 0) {
        self.event = event
        self.seconds = seconds
    }

    /// As in JSON.
    public var name: String { self.wire.name.rawValue }
}

extension Step: Codable {
    private struct Wire: Codable {
        enum Name: String, Codable {
            case waitsForDrain, sidecarRunning, tunnelUp, portMapped, localServerMissing
            case originalAnswers, holdersAnswer, nothingAnswers, copiesEnded, drained
        }

        var name: Name
        var seconds: Double
        var mapping: PortMapping?
        var sidecars: [SidecarStatus] = []
        var connections: UInt64?
        var reset: UInt64?
        var reason: String?
        var holders: [PortHolder]?
    }

    private var wire: Wire {
        func wire(_ name: Wire.Name) -> Wire { Wire(name: name, seconds: self.seconds) }
        var result: Wire
        switch self.event {
        case .waitsForDrain: return wire(.waitsForDrain)
        case .sidecarRunning: return wire(.sidecarRunning)
        case .originalAnswers(let others):
            result = wire(.originalAnswers)
            result.holders = others.isEmpty ? nil : others
        case .holdersAnswer(let others):
            result = wire(.holdersAnswer)
            result.holders = others
        case .copiesEnded: return wire(.copiesEnded)
        case .tunnelUp(let sidecars):
            result = wire(.tunnelUp)
            result.sidecars = sidecars
        case .portMapped(let mapping):
            result = wire(.portMapped)
            result.mapping = mapping
        case .localServerMissing(let mapping):
            result = wire(.localServerMissing)
            result.mapping = mapping
        case .nothingAnswers(let reason):
            result = wire(.nothingAnswers)
            result.reason = reason
        case .drained(let open, let reset):
            result = wire(.drained)
            (result.connections, result.reset) = (open, reset)
        }
        return result
    }

    public init(from decoder: any Decoder) throws {
        let wire = try Wire(from: decoder)
        func mapping() throws -> PortMapping {
            if let mapping = wire.mapping { return mapping }
            throw DecodingError.dataCorrupted(
                .init(codingPath: decoder.codingPath, debugDescription: "\(wire.name.rawValue) has no mapping")
            )
        }
        let event: Event =
            switch wire.name {
            case .waitsForDrain: .waitsForDrain
            case .sidecarRunning: .sidecarRunning
            case .tunnelUp: .tunnelUp(wire.sidecars)
            case .portMapped: .portMapped(try mapping())
            case .localServerMissing: .localServerMissing(try mapping())
            case .originalAnswers: .originalAnswers(besides: wire.holders ?? [])
            case .holdersAnswer: .holdersAnswer(wire.holders ?? [])
            case .copiesEnded: .copiesEnded
            case .nothingAnswers: .nothingAnswers(because: wire.reason)
            case .drained: .drained(open: wire.connections ?? 0, reset: wire.reset ?? 0)
            }
        self.init(event, seconds: wire.seconds)
    }

    public func encode(to encoder: any Encoder) throws { try self.wire.encode(to: encoder) }
}
