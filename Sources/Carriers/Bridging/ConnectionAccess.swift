public import Noise
public import Tunnel

/// One end of a tunnel's connection, for those that use its streams.
public protocol ConnectionAccess: AnyObject {
    /// nil: there is no connection, or no longer.
    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result?
    /// Who is told of which stream's events.
    var owners: StreamOwners { get }
}

extension ConnectionAccess {
    /// The stream has no further use: its owner is told of nothing more, and the peer may be granted another.
    public func release(_ stream: StreamID) {
        self.owners.unbind(stream)
        _ = self.withConnection { $0.release(stream) }
    }
}

extension TunnelClient: ConnectionAccess {}

/// The connection of one key at the sidecar.
public final class ServerConnection: ConnectionAccess {
    public let key: PublicKey
    public let owners = StreamOwners()
    /// nil: the connection is over.
    private var link: Link?
    private unowned let server: TunnelServer

    init(_ key: PublicKey, _ link: Link?, of server: TunnelServer) {
        self.key = key
        self.link = link
        self.server = server
    }

    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        defer { self.server.schedulePump() }
        return self.link?.withConnection(body)
    }

    /// Its keys don't outlive the connection, however long a socket refers to this.
    func ended() { self.link = nil }
}
