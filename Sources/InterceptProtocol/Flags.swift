/// A flag's value is invalid: what is wrong, and how it should look.
public struct FlagError: Error, Equatable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// Parses flags that the agents and the CLI share.
public enum Flags {
    /// 1 to 65535.
    public static func port(_ text: Substring) throws(FlagError) -> UInt16 {
        guard text.utf8.allSatisfy({ (48...57).contains($0) }), let port = UInt16(text), port > 0 else {
            throw FlagError("'\(text)' isn't a port. Ports are numbers from 1 to 65535.")
        }
        return port
    }

    /// Splits at colons, except within the brackets of an IPv6 address, which are removed.
    public static func pieces(_ text: String) throws(FlagError) -> [Substring] {
        var pieces: [Substring] = []
        var rest = text[...]
        while true {
            if rest.first == "[" {
                guard let end = rest.firstIndex(of: "]") else {
                    throw FlagError("'\(text)' lacks a ']'. An IPv6 address is written in brackets: [::1].")
                }
                pieces.append(rest[rest.index(after: rest.startIndex)..<end])
                rest = rest[rest.index(after: end)...]
                if rest.isEmpty { return pieces }
                guard rest.first == ":" else {
                    throw FlagError("'\(text)' goes on after ']'. A port comes after a colon: [::1]:8080.")
                }
                rest = rest.dropFirst()
            } else if let colon = rest.firstIndex(of: ":") {
                pieces.append(rest[..<colon])
                rest = rest[rest.index(after: colon)...]
            } else {
                pieces.append(rest)
                return pieces
            }
        }
    }

    /// Splits off `/tcp` or `/udp`; without either it is TCP.
    public static func transport(_ text: String) throws(FlagError) -> (body: String, transport: Transport) {
        guard let slash = text.lastIndex(of: "/") else { return (text, .tcp) }
        guard let transport = Transport(rawValue: String(text[text.index(after: slash)...])) else {
            throw FlagError("'\(text)' names no transport that there is. After the slash write tcp or udp.")
        }
        return (String(text[..<slash]), transport)
    }

    /// `HOST:PORT`; port 0, if allowed, means any free one.
    public static func endpoint(_ text: String, zeroAllowed: Bool = false) throws(FlagError) -> Endpoint {
        let pieces = try Self.pieces(text)
        guard pieces.count == 2, !pieces[0].isEmpty else {
            throw FlagError(
                "'\(text)' isn't an address and a port. Write HOST:PORT, such as 127.0.0.1:51820 or [::1]:51820."
            )
        }
        if zeroAllowed, pieces[1] == "0" { return Endpoint(host: String(pieces[0]), port: 0) }
        return Endpoint(host: String(pieces[0]), port: try Self.port(pieces[1]))
    }

    /// Parses `10m`, `6s`, `500ms`, `1h` into milliseconds.
    public static func milliseconds(_ text: String) throws(FlagError) -> Int64 {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let factor: Int64? =
            switch text.dropFirst(digits.count) {
            case "ms": 1
            case "s": 1_000
            case "m": 60_000
            case "h": 3_600_000
            default: nil
            }
        guard let factor, let count = Int64(digits), count <= 1_000_000_000 else {
            throw FlagError("'\(text)' isn't a length of time. Write a number and a unit: 500ms, 6s, 10m, 1h.")
        }
        let milliseconds = count * factor
        guard milliseconds <= 7 * 86_400_000 else { throw FlagError("'\(text)' is too long. At most a week, 168h.") }
        return milliseconds
    }
}

public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    public var description: String {
        self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)"
    }
}

/// A workspace's `--map`: the local address that serves one of the service's ports.
public struct PortMapping: Hashable, Sendable {
    public var service: ControlMessage.Port
    public var target: Endpoint

    public init(service: ControlMessage.Port, host: String, port: UInt16) {
        self.service = service
        self.target = Endpoint(host: host, port: port)
    }

    /// `8080:3000`, `8080` for the same port, `8080:HOST:3000` for another machine; each may end in `/udp`.
    public init(_ text: String) throws(FlagError) {
        let (body, transport) = try Flags.transport(text)
        let pieces = try Flags.pieces(body)
        switch pieces.count {
        case 1:
            self.target = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[0]))
        case 2: self.target = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[1]))
        case 3 where !pieces[1].isEmpty:
            self.target = Endpoint(host: String(pieces[1]), port: try Flags.port(pieces[2]))
        default:
            throw FlagError(
                "'\(text)' isn't a mapping. Write SERVICE_PORT:LOCAL_PORT or SERVICE_PORT:HOST:PORT, such as 8080:3000."
            )
        }
        self.service = ControlMessage.Port(service: try Flags.port(pieces[0]), transport: transport)
    }
}

/// A sidecar's `--service-port`: a port of the service, and the original's address.
public struct ServicePort: Hashable, Sendable {
    public var port: UInt16
    public var transport: Transport
    public var upstream: Endpoint

    /// The port as control messages name it.
    public var service: ControlMessage.Port { ControlMessage.Port(service: self.port, transport: self.transport) }

    /// `8080:127.0.0.1:21090`, or `8080` if the original listens on the same port of this host; either may end in `/udp`.
    public init(_ text: String) throws(FlagError) {
        let (body, transport) = try Flags.transport(text)
        let pieces = try Flags.pieces(body)
        switch pieces.count {
        case 1: self.upstream = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[0]))
        case 3 where !pieces[1].isEmpty:
            self.upstream = Endpoint(host: String(pieces[1]), port: try Flags.port(pieces[2]))
        default:
            throw FlagError(
                "'\(text)' isn't a service port. Write PORT or PORT:UPSTREAM_HOST:UPSTREAM_PORT, for UDP with /udp after it."
            )
        }
        self.port = try Flags.port(pieces[0])
        self.transport = transport
    }
}

/// `--carrier`: how a sidecar is dialled.
public enum CarrierChoice: String, Sendable, CaseIterable {
    /// At its addresses, over UDP and TCP at once; if these can't be reached, with the environment's command.
    case auto
    case udp
    case tcp
    case exec

    public init(flag text: String) throws(FlagError) {
        guard let choice = CarrierChoice(rawValue: text) else {
            throw FlagError("'\(text)' isn't a carrier. Write \(Self.names).")
        }
        self = choice
    }

    /// For use in a sentence: "auto, udp, tcp or exec".
    public static var names: String {
        let names = self.allCases.map(\.rawValue)
        return names.dropLast().joined(separator: ", ") + (names.last.map { " or \($0)" } ?? "")
    }
}

/// A workspace's `--sidecar`: which sidecar to dial, and how.
public struct SidecarAddress: Hashable, Sendable {
    public enum Carrier: Hashable, Sendable {
        case tcp(Endpoint)
        case udp(Endpoint)
        /// A program and its arguments.
        case exec([String])
    }

    /// As text, since this module doesn't know the key type.
    public var publicKey: String
    public var carrier: Carrier

    /// `PUBLIC_KEY@tcp:HOST:PORT`, and the same with `udp:` or `exec:COMMAND`.
    public init(_ text: String) throws(FlagError) {
        guard let at = text.firstIndex(of: "@") else { throw Self.malformed(text) }
        self.publicKey = String(text[..<at])
        let rest = text[text.index(after: at)...]
        guard let colon = rest.firstIndex(of: ":"), !self.publicKey.isEmpty else { throw Self.malformed(text) }
        let value = String(rest[rest.index(after: colon)...])
        switch rest[..<colon] {
        case "tcp": self.carrier = .tcp(try Flags.endpoint(value))
        case "udp": self.carrier = .udp(try Flags.endpoint(value))
        case "exec": self.carrier = .exec(try Self.command(value, of: text))
        default: throw Self.malformed(text)
        }
    }

    private static func command(_ value: String, of text: String) throws(FlagError) -> [String] {
        let split: ShellWords
        do throws(ShellWords.Failure) {
            split = try ShellWords(value)
        } catch {
            switch error {
            case .unclosed(let quote):
                throw FlagError("'\(text)' lacks a \(quote) that closes the one before. Add it.")
            case .backslashAtEnd:
                throw FlagError("'\(text)' ends with a backslash. Take it away, or write two.")
            }
        }
        if let syntax = split.shellSyntax {
            throw FlagError(
                "'\(syntax)' in the command after exec: means something to a shell alone. Run one: exec:sh -c '…'."
            )
        }
        guard split.words.first?.isEmpty == false else { throw Self.malformed(text) }
        return split.words
    }

    private static func malformed(_ text: String) -> FlagError {
        FlagError(
            "'\(text)' isn't a sidecar's address. Write PUBLIC_KEY@tcp:HOST:PORT or PUBLIC_KEY@udp:HOST:PORT, as the "
                + "sidecar's ready line has them, or PUBLIC_KEY@exec:'COMMAND …'."
        )
    }
}
