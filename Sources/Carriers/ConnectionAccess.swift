public import Noise
public import Tunnel

/// A way to one connection of a tunnel, for what ties sockets to its streams.
public protocol ConnectionAccess: AnyObject {
    /// nil: there is no connection (any more).
    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result?
}

extension TunnelClient: ConnectionAccess {}

/// One key's connection at the sidecar.
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

/// Who is told what happens to a stream. One for each stream; it may be replaced as the stream's life goes on.
public protocol StreamOwner: AnyObject {
    func streamIsReadable()
    func streamIsWritable()
    func streamWasReset(_ code: StreamErrorCode)
    func streamWasStopped(_ code: StreamErrorCode)
    /// The connection is over, and the stream with it.
    func streamEnded()
}
