public import InterceptModel

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

    /// Parses `32m`, `1g` into bytes.
    public static func bytes(_ text: String) throws(FlagError) -> Int {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let factor: Int? =
            switch text.dropFirst(digits.count) {
            case "m": 1_024 * 1_024
            case "g": 1_024 * 1_024 * 1_024
            default: nil
            }
        guard let factor, let count = Int(digits), count <= 1_000_000 else {
            throw FlagError("'\(text)' isn't a size. Write a number and a unit: 32m, 1g.")
        }
        return count * factor
    }
}

/// Each port of the service may be given only once, as two flags for one port contradict each other.
extension Flags {
    public static func checkDistinct(_ mappings: [PortMapping]) throws(FlagError) {
        try Self.checkDistinct(mappings, by: \.port)
        guard mappings.count <= ServicePort.maxCount else {
            throw FlagError("\(mappings.count) ports are too many. At most \(ServicePort.maxCount).")
        }
    }

    public static func checkDistinct(_ ports: [ServedPort]) throws(FlagError) {
        try Self.checkDistinct(ports, by: \.port)
    }

    private static func checkDistinct<Value: CustomStringConvertible, Port: Hashable>(
        _ values: [Value],
        by port: KeyPath<Value, Port>
    ) throws(FlagError) {
        var seen: [Port: Value] = [:]
        for value in values {
            if let other = seen.updateValue(value, forKey: value[keyPath: port]) {
                throw FlagError("'\(other)' and '\(value)' are for the same port of the service. Give each port once.")
            }
        }
    }
}
