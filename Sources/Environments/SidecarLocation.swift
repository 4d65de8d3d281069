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
    /// The addresses at which clients reach the service: `127.0.0.1:8080`.
    public var listens: [String]
    /// Which address the original sees where a client is passed on to it. Nil: the sidecar doesn't tell.
    public var originalSees: SeenAddress?

    public init(
        name: String,
        publicKey: String,
        tcp: String,
        udp: String? = nil,
        command: [String]? = nil,
        listens: [String]
    ) {
        self.name = name
        self.publicKey = publicKey
        self.tcp = tcp
        self.udp = udp
        self.command = command
        self.listens = listens
    }
}
