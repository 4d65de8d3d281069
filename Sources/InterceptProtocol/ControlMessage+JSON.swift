public import NIOCore

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// u32 length, then one JSON object.
extension ControlMessage {
    /// The greatest message that is taken or sent.
    public static let maxByteCount = 64 * 1_024

    /// One flat shape for all messages: which keys count depends on `type`.
    private struct Wire: Codable {
        struct WirePort: Codable {
            var service: UInt16
            var transport: String?
        }

        var type: String
        var generation: UInt64?
        var workspace: String?
        var ports: [WirePort]?
        var onUnavailable: String?
        var drainSeconds: Int?
        var probes: String?
        var proxyProtocol: String?
        var takeover: Bool?
        var code: String?
        var reason: String?
        var holder: String?
        var since: String?
        var open: UInt64?
        var total: UInt64?
        var passed: UInt64?
        var bytesIn: UInt64?
        var bytesOut: UInt64?

        init(_ type: String) { self.type = type }
    }

    public func encode(into output: inout ByteBuffer) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Nothing in `Wire` can fail to encode: strings, integers and booleans.
        guard let json = try? encoder.encode(self.wire), json.count <= Self.maxByteCount else { return }
        output.writeInteger(UInt32(json.count))
        output.writeBytes(json)
    }

    private var wire: Wire {
        switch self {
        case .start(let start): return Self.wire(start)
        case .stop: return Wire("stop")
        case .started(let generation):
            var wire = Wire("started")
            wire.generation = generation
            return wire
        case .failed(let failure):
            var wire = Wire("failed")
            wire.generation = failure.generation
            wire.code = failure.code.rawValue
            wire.reason = failure.reason
            wire.holder = failure.holder
            wire.since = failure.since
            return wire
        case .withdrawn(let holder):
            var wire = Wire("withdrawn")
            wire.holder = holder
            return wire
        case .stopped(let total, let passed):
            var wire = Wire("stopped")
            wire.total = total
            wire.passed = passed
            return wire
        case .status(let status):
            var wire = Wire("status")
            wire.open = status.open
            wire.total = status.total
            wire.passed = status.passed
            wire.bytesIn = status.bytesIn
            wire.bytesOut = status.bytesOut
            return wire
        case .unknown(let type, let generation):
            var wire = Wire(type)
            wire.generation = generation
            return wire
        }
    }

    private static func wire(_ start: Start) -> Wire {
        var wire = Wire("start")
        wire.generation = start.generation
        wire.workspace = start.workspace
        wire.ports = start.ports.map { Wire.WirePort(service: $0.service, transport: $0.transport.rawValue) }
        wire.onUnavailable = start.onUnavailable.rawValue
        wire.drainSeconds = start.drainSeconds
        wire.probes = start.probes.rawValue
        wire.proxyProtocol = start.proxyProtocol?.rawValue
        wire.takeover = start.takeover ? true : nil
        return wire
    }

    /// Reads one message, without its length. A value that is of the right kind but that this version doesn't have is
    /// a `refused` result: the other side is told so and nothing is closed.
    static func decode(_ json: ByteBuffer) throws(ControlError) -> Decoded {
        var json = json
        let bytes = Data(json.readBytes(length: json.readableBytes) ?? [])
        let wire: Wire
        do {
            wire = try JSONDecoder().decode(Wire.self, from: bytes)
        } catch {
            throw ControlError("a control message that isn't a JSON object with values of the right kinds")
        }
        switch wire.type {
        case "start": return try Self.start(wire)
        case "stop": return .message(.stop)
        case "started": return .message(.started(generation: try Self.required(wire.generation)))
        case "failed":
            let failure = Failure(
                generation: wire.generation,
                code: Failure.Code(rawValue: wire.code ?? "") ?? .internal,
                reason: wire.reason?.printable ?? "",
                holder: wire.holder?.printable,
                since: wire.since?.printable
            )
            return .message(.failed(failure))
        case "withdrawn": return .message(.withdrawn(holder: wire.holder?.printable))
        case "stopped": return .message(.stopped(total: wire.total ?? 0, passed: wire.passed ?? 0))
        case "status":
            let status = Status(
                open: wire.open ?? 0,
                total: wire.total ?? 0,
                passed: wire.passed ?? 0,
                bytesIn: wire.bytesIn ?? 0,
                bytesOut: wire.bytesOut ?? 0
            )
            return .message(.status(status))
        default: return .message(.unknown(type: wire.type.printable, generation: wire.generation))
        }
    }

    enum Decoded {
        case message(ControlMessage)
        /// Well-formed, but with a value that isn't known or out of range.
        case refused(Failure)
    }

    private static func required<Value>(_ value: Value?) throws(ControlError) -> Value {
        guard let value else { throw ControlError("a control message that lacks a value it must have") }
        return value
    }

    private static func start(_ wire: Wire) throws(ControlError) -> Decoded {
        let generation = try Self.required(wire.generation)
        let ports = try Self.required(wire.ports)
        func refused(_ reason: String) -> Decoded {
            .refused(Failure(generation: generation, code: .unsupported, reason: reason))
        }
        var start = Start(generation: generation, workspace: wire.workspace?.printable ?? "", ports: [])
        for port in ports {
            guard let transport = Transport(rawValue: port.transport ?? "tcp") else {
                return refused("the transport '\(port.transport?.printable ?? "")' isn't known")
            }
            guard port.service > 0 else { return refused("port 0 can't be intercepted") }
            start.ports.append(Port(service: port.service, transport: transport))
        }
        guard let onUnavailable = OnUnavailable(rawValue: wire.onUnavailable ?? "original") else {
            return refused("onUnavailable must be 'original' or 'refuse'")
        }
        guard let probes = Probes(rawValue: wire.probes ?? "original") else {
            return refused("probes must be 'original' or 'workspace'")
        }
        if let text = wire.proxyProtocol {
            guard let version = ProxyProtocol(rawValue: text) else {
                return refused("proxyProtocol must be 'v1' or 'v2'")
            }
            start.proxyProtocol = version
        }
        let drain = wire.drainSeconds ?? 10
        guard (0...600).contains(drain) else { return refused("drainSeconds must be 0 to 600") }
        start.onUnavailable = onUnavailable
        start.probes = probes
        start.drainSeconds = drain
        start.takeover = wire.takeover ?? false
        return .message(.start(start))
    }
}
