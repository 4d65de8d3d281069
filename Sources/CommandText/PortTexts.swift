public import InterceptModel

extension PortMapping {
    /// `8080:3000`, `8080` for the same port, `8080:HOST:3000` for another machine; each may end in `/udp`.
    public init(_ text: String) throws(FlagError) {
        let (body, transport) = try Flags.transport(text)
        let pieces = try Flags.pieces(body)
        let target: Endpoint
        switch pieces.count {
        case 1: target = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[0]))
        case 2: target = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[1]))
        case 3 where !pieces[1].isEmpty:
            target = Endpoint(host: String(pieces[1]), port: try Flags.port(pieces[2]))
        default:
            throw FlagError(
                "'\(text)' isn't a mapping. Write SERVICE_PORT:LOCAL_PORT or SERVICE_PORT:HOST:PORT, such as 8080:3000."
            )
        }
        self.init(ServicePort(try Flags.port(pieces[0]), transport), to: target)
    }
}

extension ServedPort {
    /// `8080:127.0.0.1:21090`, or `8080` if the original listens on the same port of this host; either may end in `/udp`.
    public init(_ text: String) throws(FlagError) {
        let (body, transport) = try Flags.transport(text)
        let pieces = try Flags.pieces(body)
        let upstream: Endpoint
        switch pieces.count {
        case 1: upstream = Endpoint(host: "127.0.0.1", port: try Flags.port(pieces[0]))
        case 3 where !pieces[1].isEmpty:
            upstream = Endpoint(host: String(pieces[1]), port: try Flags.port(pieces[2]))
        default:
            throw FlagError(
                "'\(text)' isn't a service port. Write PORT or PORT:UPSTREAM_HOST:UPSTREAM_PORT, for UDP with /udp after it."
            )
        }
        self.init(ServicePort(try Flags.port(pieces[0]), transport), upstream: upstream)
    }
}
