import InterceptModel
public import NIOCore

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// On the wire: a u32 length, then one JSON object.
extension ControlMessage {
    /// The largest message that is accepted or sent.
    public static let maxByteCount = 64 * 1_024

    /// 2^53 - 1: integers up to it are exact in every JSON implementation.
    static let greatestNumber: UInt64 = 1 << 53 - 1

    /// Appends the message with its length. Strings are cut to the limits that the peer enforces.
    ///
    /// - Returns: false, with nothing appended, if the message is over 64 KiB: a `start` with far more than
    ///   `ServicePort.maxCount` ports.
    @discardableResult
    public func encode(into output: inout ByteBuffer) -> Bool {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Encoding can't fail: there are only strings, booleans and integers.
        guard let json = try? encoder.encode(Wire(message: self)), json.count <= Self.maxByteCount else { return false }
        output.writeInteger(UInt32(json.count))
        output.writeBytes(json)
        return true
    }
}

/// A type of its own, so that the encoding stays private to this file.
private struct Wire: Encodable {
    let message: ControlMessage

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: ControlMessage.Key.self)
        func write(_ type: String, _ pairs: (ControlMessage.Key, UInt64?)...) throws {
            try values.encode(type, forKey: .type)
            for (key, number) in pairs {
                try values.encodeIfPresent(number.map { min($0, ControlMessage.greatestNumber) }, forKey: key)
            }
        }
        switch self.message {
        case .start(let start):
            try write("start", (.generation, start.generation))
            try values.encode(start.workspace.printable, forKey: .workspace)
            try values.encode(start.ports.map(WirePort.init), forKey: .ports)
            try values.encodeIfPresent(start.absent?.map(WirePort.init), forKey: .absent)
            try values.encode(start.onUnavailable.rawValue, forKey: .onUnavailable)
            try values.encode(start.drainSeconds, forKey: .drainSeconds)
            try values.encode(start.probes.rawValue, forKey: .probes)
            try values.encodeIfPresent(start.proxyProtocol?.rawValue, forKey: .proxyProtocol)
            if start.takeover { try values.encode(true, forKey: .takeover) }
        case .mirror(let mirror):
            try write("mirror", (.generation, mirror.generation))
            try values.encode(mirror.workspace.printable, forKey: .workspace)
            try values.encode(mirror.ports.map(WirePort.init), forKey: .ports)
            try values.encode(mirror.probes.rawValue, forKey: .probes)
            try values.encodeIfPresent(mirror.proxyProtocol?.rawValue, forKey: .proxyProtocol)
        case .stop: try write("stop")
        case .probe(let probe):
            try write("probe", (.id, probe.id))
            try values.encode(probe.ports.map(WirePort.init), forKey: .ports)
        case .started(let generation): try write("started", (.generation, generation))
        case .failed(let failure):
            try write("failed", (.generation, failure.generation), (.id, failure.id))
            try values.encode(failure.code.rawValue, forKey: .code)
            try values.encode(failure.reason.printable, forKey: .reason)
            try values.encodeIfPresent(failure.holder?.printable, forKey: .holder)
            try values.encodeIfPresent(failure.since?.printable, forKey: .since)
        case .withdrawn(let holder):
            try write("withdrawn")
            try values.encodeIfPresent(holder?.printable, forKey: .holder)
        case .stopped(let total, let passed): try write("stopped", (.total, total), (.passed, passed))
        case .status(let status):
            try write(
                "status",
                (.open, status.open),
                (.total, status.total),
                (.passed, status.passed),
                (.bytesIn, status.bytesIn),
                (.bytesOut, status.bytesOut),
                (.behind, status.behind > 0 ? status.behind : nil)
            )
        case .probed(let probed):
            try write("probed", (.id, probed.id))
            let answers = probed.answers.sorted {
                ($0.key.number, $0.key.transport.rawValue) < ($1.key.number, $1.key.transport.rawValue)
            }
            try values.encode(answers.map { WirePort(port: $0.key, answer: $0.value) }, forKey: .answers)
        case .unknown(let type, let generation): try write(type, (.generation, generation))
        }
    }
}

private struct WirePort: Encodable {
    let port: ServicePort
    let answer: Answer?

    init(port: ServicePort) { self.init(port: port, answer: nil) }

    init(port: ServicePort, answer: Answer?) {
        self.port = port
        self.answer = answer
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: ControlMessage.Key.self)
        try values.encode(self.port.number, forKey: .service)
        try values.encode(self.port.transport.rawValue, forKey: .transport)
        try values.encodeIfPresent(self.answer?.rawValue, forKey: .answer)
    }
}
