import Environments
import InterceptModel

extension ComposeReader {
    /// A later file adds ports to those of the earlier ones; a port that differs in its name alone replaces the earlier
    /// one.
    mutating func ports(
        _ value: YAMLValue,
        of service: String,
        into result: inout [(port: ComposePort, position: Position)]
    ) throws(Fault) {
        var names = Set(result.compactMap(\.port.name))
        var before: [ComposePort: Int] = [:]
        for (index, known) in result.enumerated() { before[known.port.anonymous] = index }
        for element in try self.elements(value, "'ports'") {
            let port: ComposePort
            if case .mapping(let entries) = element.kind {
                port = try self.longPort(entries, at: element.position)
            } else {
                let text = try self.text(element, "an element of 'ports'")
                port = try Self.at(element.position) { () throws(PortText.Failure) in try PortText.short(text) }
            }
            if let index = before[port.anonymous] {
                if let name = result[index].port.name { names.remove(name) }
                if let name = port.name { names.insert(name) }
                result[index] = (port, element.position)
                continue
            }
            if let name = port.name, !names.insert(name).inserted {
                throw Fault(
                    element.position,
                    "two ports of \(service.quoted) have the name \(name.quoted). Give one of them another."
                )
            }
            result.append((port, element.position))
        }
    }

    private mutating func longPort(_ entries: [YAMLValue.Entry], at position: Position) throws(Fault) -> ComposePort {
        var target: UInt16?
        var published: UInt16?
        var host: String?
        var name: String?
        var transport = Transport.tcp
        for entry in entries {
            if entry.value.isNull { continue }
            let place = entry.value.position
            switch entry.key {
            case "target", "published":
                let text = try self.text(entry.value, entry.key.quoted)
                let number = try Self.at(place) { () throws(PortText.Failure) in try PortText.number(text, entry.key) }
                if entry.key == "target" { target = number } else { published = number }
            case "host_ip":
                let text = try self.text(entry.value, "'host_ip'")
                host = try Self.at(place) { () throws(PortText.Failure) in try PortText.host(text) }
            case "protocol":
                let text = try self.text(entry.value, "'protocol'")
                transport = try Self.at(place) { () throws(PortText.Failure) in try PortText.transport(text) }
            case "name": name = try self.portName(entry.value)
            // The application protocol, which makes no difference to the tunnel.
            case "app_protocol": break
            case "mode":
                self.warn(
                    entry.position,
                    "'mode' is ignored: a service of a local environment is a process of this machine"
                )
            default:
                self.warnOfUnknown(
                    entry,
                    of: "a port",
                    known: ["app_protocol", "host_ip", "name", "protocol", "published", "target"]
                )
            }
        }
        guard let target else {
            throw Fault(position, "a port has no 'target'. Write where the service's own process listens.")
        }
        guard let published else {
            let failure = PortText.publishedMissing(target: target, in: "target \(target)")
            throw Fault(position, failure.text)
        }
        return ComposePort(
            published: published,
            target: target,
            hostAddress: host ?? "127.0.0.1",
            name: name,
            transport: transport
        )
    }

    private mutating func portName(_ value: YAMLValue) throws(Fault) -> String {
        let name = try self.text(value, "'name'")
        let isValid =
            name.utf8.count <= 63 && !name.isEmpty && !name.utf8.allSatisfy(\.isDigit)
            && name.utf8.allSatisfy { $0.isAlphanumeric || [0x2D, 0x2E, 0x5F].contains($0) }
        guard isValid else {
            throw Fault(
                value.position,
                "\(name.quoted) can't be a port's name. Write letters, digits, '.', '_' and '-', at most 63, and not digits alone."
            )
        }
        return name
    }

    private static func at<Result>(
        _ position: Position,
        _ body: () throws(PortText.Failure) -> Result
    ) throws(Fault) -> Result {
        do throws(PortText.Failure) { return try body() } catch { throw Fault(position, error.text) }
    }
}

extension ComposePort {
    /// The port without its name: two ports of different files that are equal by this are the same port.
    fileprivate var anonymous: ComposePort {
        var port = self
        port.name = nil
        return port
    }
}
