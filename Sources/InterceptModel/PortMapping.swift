/// A host, by name or address, and a port.
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// `HOST:PORT`, with an IPv6 address in brackets.
    public var description: String {
        self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)"
    }
}

/// The local address that serves one of the service's ports during an intercept.
public struct PortMapping: Hashable, Sendable {
    public var port: ServicePort
    public var target: Endpoint

    public init(_ port: ServicePort, to target: Endpoint) {
        self.port = port
        self.target = target
    }
}

extension PortMapping: CustomStringConvertible {
    /// As the flags `--map` and `--port` are written, in full: `8080:127.0.0.1:3000`, `53:127.0.0.1:5353/udp`.
    public var description: String { "\(self.port.number):\(self.target)\(self.port.transport.suffix)" }
}
