import InterceptModel
import NIOCore

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// The result of decoding one message from the peer.
enum DecodedControlMessage: Equatable {
    case message(ControlMessage)
    /// Well-formed, but with an unknown or out-of-range value: the peer gets this failure, and the stream goes on.
    case refused(ControlMessage.Failure)
}

extension DecodedControlMessage {
    /// Reads one message, without its length.
    init(json: ByteBuffer) throws(ControlError) {
        let bytes = Data(json.readableBytesView)
        // The decoder below would also guess UTF-16 and UTF-32, which have zero bytes; JSON in UTF-8 never has one.
        guard !bytes.contains(0) else { throw ControlError("a control message that isn't JSON in UTF-8") }
        do {
            self = try JSONDecoder().decode(Self.self, from: bytes)
        } catch let error as ControlError {
            throw error
        } catch DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context) {
            throw ControlError("a control message whose \(Self.name(context.codingPath)) is of a wrong kind")
        } catch DecodingError.keyNotFound(let key, _) {
            throw ControlError("a control message that lacks '\(key.stringValue)'")
        } catch {
            throw ControlError("a control message that can't be read as a JSON object")
        }
    }

    /// The path's keys are names of this protocol, never the peer's text.
    private static func name(_ path: [any CodingKey]) -> String {
        path.last { $0.intValue == nil }.map { "'\($0.stringValue)'" } ?? "value"
    }
}

/// Only the keys of the message's type are read: a later version may use the others for anything.
extension DecodedControlMessage: Decodable {
    typealias Key = ControlMessage.Key

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: Key.self)
        let type = try values.decode(String.self, forKey: .type)
        switch type {
        case "start": self = try Self.start(values)
        case "mirror": self = try Self.mirror(values)
        case "stop": self = .message(.stop)
        case "probe": self = try Self.probe(values)
        case "started": self = .message(.started(generation: try values.requiredNumber(.generation)))
        case "failed":
            let code = try values.string(.code) ?? ""
            let failure = ControlMessage.Failure(
                generation: try values.number(.generation),
                // A code of a later version still means a failure.
                code: ControlMessage.Failure.Code(rawValue: code) ?? .internal,
                reason: try values.string(.reason)?.printable ?? "",
                holder: try values.string(.holder)?.printable,
                since: try values.string(.since)?.printable,
                id: try values.number(.id)
            )
            self = .message(.failed(failure))
        case "withdrawn": self = .message(.withdrawn(holder: try values.string(.holder)?.printable))
        case "stopped":
            let total = try values.number(.total) ?? 0
            self = .message(.stopped(total: total, passed: try values.number(.passed) ?? 0))
        case "status":
            var status = ControlMessage.Status(
                open: try values.number(.open) ?? 0,
                total: try values.number(.total) ?? 0,
                passed: try values.number(.passed) ?? 0,
                bytesIn: try values.number(.bytesIn) ?? 0,
                bytesOut: try values.number(.bytesOut) ?? 0
            )
            status.behind = try values.number(.behind) ?? 0
            self = .message(.status(status))
        case "probed": self = .message(.probed(try Self.probed(values)))
        default:
            self = .message(.unknown(type: type.printable, generation: try? values.number(.generation)))
        }
    }

    private static func start(_ values: KeyedDecodingContainer<Key>) throws -> Self {
        var start = ControlMessage.Start(
            generation: try values.requiredNumber(.generation),
            workspace: try values.string(.workspace)?.printable ?? "",
            ports: []
        )
        // Decode all values first: one of a wrong kind is a protocol error, even if another value would be refused.
        let ports = try values.decode([RawPort].self, forKey: .ports)
        let absent = values.contains(.absent) ? try values.decode([RawPort].self, forKey: .absent) : nil
        let onUnavailable = try values.string(.onUnavailable)
        let drainSeconds = try values.number(.drainSeconds)
        let probes = try values.string(.probes)
        let proxyProtocol = try values.string(.proxyProtocol)
        start.takeover = try values.boolean(.takeover) ?? false
        do throws(RefusedValue) {
            start.ports = try Self.ports(ports)
            if let absent { start.absent = try Self.ports(absent) }
            start.onUnavailable = try Self.choice(onUnavailable, .onUnavailable) ?? start.onUnavailable
            start.probes = try Self.choice(probes, .probes) ?? start.probes
            start.proxyProtocol = try Self.choice(proxyProtocol, .proxyProtocol)
            if let drainSeconds {
                guard drainSeconds <= 600 else { throw RefusedValue("drainSeconds must be 0 to 600") }
                start.drainSeconds = Int(drainSeconds)
            }
        } catch {
            return .refused(.init(generation: start.generation, code: .unsupported, reason: error.reason))
        }
        return .message(.start(start))
    }

    private static func mirror(_ values: KeyedDecodingContainer<Key>) throws -> Self {
        var mirror = ControlMessage.Mirror(
            generation: try values.requiredNumber(.generation),
            workspace: try values.string(.workspace)?.printable ?? "",
            ports: []
        )
        let ports = try values.decode([RawPort].self, forKey: .ports)
        let probes = try values.string(.probes)
        let proxyProtocol = try values.string(.proxyProtocol)
        do throws(RefusedValue) {
            mirror.ports = try Self.ports(ports)
            mirror.probes = try Self.choice(probes, .probes) ?? mirror.probes
            mirror.proxyProtocol = try Self.choice(proxyProtocol, .proxyProtocol)
        } catch {
            return .refused(.init(generation: mirror.generation, code: .unsupported, reason: error.reason))
        }
        return .message(.mirror(mirror))
    }

    private static func probe(_ values: KeyedDecodingContainer<Key>) throws -> Self {
        let id = try values.requiredNumber(.id)
        let ports = try values.decode([RawPort].self, forKey: .ports)
        do throws(RefusedValue) {
            return .message(.probe(.init(id: id, ports: try Self.ports(ports))))
        } catch {
            return .refused(.init(generation: nil, code: .unsupported, reason: error.reason, id: id))
        }
    }

    /// Answers that this version doesn't understand are skipped, as if there were none.
    private static func probed(_ values: KeyedDecodingContainer<Key>) throws -> ControlMessage.Probed {
        var probed = ControlMessage.Probed(id: try values.requiredNumber(.id), answers: [:])
        for raw in try values.decode([RawAnswer].self, forKey: .answers) {
            guard let number = UInt16(exactly: raw.port.service), number > 0,
                let transport = Transport(rawValue: raw.port.transport ?? Transport.tcp.rawValue),
                let answer = UInt8(exactly: raw.answer).flatMap(Answer.init)
            else { continue }
            probed.answers[ServicePort(number, transport)] = answer
        }
        return probed
    }

    private static func ports(_ raw: [RawPort]) throws(RefusedValue) -> [ServicePort] {
        guard raw.count <= ServicePort.maxCount else {
            throw RefusedValue("at most \(ServicePort.maxCount) ports can be intercepted")
        }
        var ports: [ServicePort] = []
        ports.reserveCapacity(raw.count)
        for port in raw {
            guard let number = UInt16(exactly: port.service), number > 0 else {
                throw RefusedValue("port \(port.service) can't be intercepted: ports are 1 to 65535")
            }
            let transport = try Self.choice(port.transport, .transport) ?? Transport.tcp
            ports.append(ServicePort(number, transport))
        }
        return ports
    }

    private static func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _ text: String?,
        _ key: Key
    ) throws(RefusedValue) -> Choice? {
        guard let text else { return nil }
        if let choice = Choice(rawValue: text) { return choice }
        let choices = Choice.allCases.map { "'\($0.rawValue)'" }.joined(separator: " or ")
        throw RefusedValue("\(key.rawValue) must be \(choices), not '\(text.printable)'")
    }
}

/// Numbers as received, before their range is checked.
private struct RawPort: Decodable {
    let service: UInt64
    let transport: String?

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: ControlMessage.Key.self)
        self.service = try values.requiredNumber(.service)
        self.transport = try values.string(.transport)
    }
}

private struct RawAnswer: Decodable {
    let port: RawPort
    let answer: UInt64

    init(from decoder: any Decoder) throws {
        self.port = try RawPort(from: decoder)
        self.answer = try decoder.container(keyedBy: ControlMessage.Key.self).requiredNumber(.answer)
    }
}

private struct RefusedValue: Error {
    let reason: String

    init(_ reason: String) { self.reason = reason }
}

/// An absent key gives nil; JSON's null is a value of a wrong kind.
extension KeyedDecodingContainer<ControlMessage.Key> {
    fileprivate func string(_ key: Key) throws -> String? {
        self.contains(key) ? try self.decode(String.self, forKey: key) : nil
    }

    fileprivate func boolean(_ key: Key) throws -> Bool? {
        self.contains(key) ? try self.decode(Bool.self, forKey: key) : nil
    }

    fileprivate func number(_ key: Key) throws -> UInt64? {
        self.contains(key) ? try self.requiredNumber(key) : nil
    }

    fileprivate func requiredNumber(_ key: Key) throws -> UInt64 {
        // A negative, fractional or too large number isn't an error of kind, and gets a message of its own.
        let notInteger = ControlError("a control message whose '\(key.rawValue)' is no integer from 0 to 2^53 - 1")
        let number: UInt64
        do {
            number = try self.decode(UInt64.self, forKey: key)
        } catch let error as DecodingError {
            if case .dataCorrupted = error { throw notInteger }
            throw error
        } catch {
            throw notInteger
        }
        guard number <= ControlMessage.greatestNumber else { throw notInteger }
        return number
    }
}
