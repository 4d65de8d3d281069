public import Noise
public import Tunnel

/// Access to one connection of a tunnel, for handlers that tie sockets to its streams.
public protocol ConnectionAccess: AnyObject {
    /// nil: there is no connection, or no longer.
    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result?
}

extension TunnelClient: ConnectionAccess {}

/// The connection of one key at the sidecar.
public final class ServerConnection: ConnectionAccess {
    public let key: PublicKey
    private unowned let server: TunnelServer

    public init(_ key: PublicKey, of server: TunnelServer) {
        self.key = key
        self.server = server
    }

    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.server.withConnection(of: self.key, body)
    }
}

/// Receives the events of one stream. Each stream has one owner, which may be replaced during the stream's life.
public protocol StreamOwner: AnyObject {
    func streamIsReadable()
    func streamIsWritable()
    func streamWasReset(_ code: StreamErrorCode)
    func streamWasStopped(_ code: StreamErrorCode)
    /// The connection is over, and the stream with it.
    func streamEnded()
}
