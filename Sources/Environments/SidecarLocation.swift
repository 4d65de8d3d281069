public import InterceptModel

/// One replica's sidecar.
public struct SidecarLocation: Codable, Hashable, Sendable {
    /// `api-server-1`
    public var name: String
    /// Base64.
    public var publicKey: String
    /// HOST:PORT of the tunnel; it may not be reachable from here.
    public var tcp: String
    /// The same for datagrams; nil: it takes none.
    public var udp: String?
    /// A program and its arguments that relays standard input and output to the sidecar, for use if `tcp` can't be reached.
    public var command: [String]?
    /// Its container, where the environment opens a way to it by itself, in place of a command (`Environment.relay`).
    public var container: String?
    /// The addresses at which clients reach the service: `127.0.0.1:8080`.
    public var listens: [String]
    /// Which address the original sees where a client is passed on to it. Nil: the sidecar doesn't tell.
    public var originalSees: SeenAddress?
    /// The replica's own ports that are behind the service's. Nil: they have the service's numbers.
    public var ports: [Port]?

    public struct Port: Codable, Hashable, Sendable {
        /// The service's port.
        public var service: UInt16
        /// Nil: TCP.
        public var transport: Transport?
        /// Where this replica listens for it, and so what its sidecar calls it.
        public var own: UInt16

        public init(_ service: ServicePort, own: UInt16) {
            self.service = service.number
            self.transport = service.transport == .tcp ? nil : service.transport
            self.own = own
        }
    }

    public init(
        name: String,
        publicKey: String,
        tcp: String,
        udp: String? = nil,
        command: [String]? = nil,
        container: String? = nil,
        listens: [String],
        ports: [Port]? = nil
    ) {
        self.name = name
        self.publicKey = publicKey
        self.tcp = tcp
        self.udp = udp
        self.command = command
        self.container = container
        self.listens = listens
        self.ports = ports
    }

    /// What the sidecar calls a port of the service. Nil: this replica doesn't serve it.
    public func ownPort(of port: ServicePort) -> ServicePort? {
        guard let ports = self.ports else { return port }
        let own = ports.first { $0.service == port.number && $0.transport ?? .tcp == port.transport }?.own
        return own.map { ServicePort($0, port.transport) }
    }
}
