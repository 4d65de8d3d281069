public import HostSupport
import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// How a program beside the sidecar finds it: an abstract Unix socket whose name holds the address of the tunnel's listener.
///
/// Of the sidecars that share a network namespace no two listen at the same address, so neither do two have the same name.
/// The name alone is no proof: both ends look at whose the other is, and the tunnel authenticates as everywhere.
public enum DialSocket {
    private static let prefix = "kl-sidecar/"

    /// Listens beside a tunnel's listener. A socket stays in the network namespace in which it was opened.
    ///
    /// - Parameter tunnel: HOST:PORT.
    public static func listen(for tunnel: String) throws(HostError) -> CInt {
        try AbstractSocket.listen(Self.prefix + tunnel)
    }

    public enum Found: Equatable, Sendable {
        case connected(CInt)
        case none
        /// Those that run here are other users'.
        case othersOnly
        /// Where the tunnels of several listen.
        case several([String])
    }

    /// Connects to the only sidecar here of this user's; root's programs may connect to everyone's.
    public static func connect() throws(HostError) -> Found {
        let own = geteuid()
        var connections: [(tunnel: String, descriptor: CInt)] = []
        var sawOthers = false
        for name in try AbstractSocket.names(from: Self.prefix) {
            guard let descriptor = try AbstractSocket.connect(name) else { continue }
            guard let user = AbstractSocket.peerUser(of: descriptor), own == 0 || user == own else {
                sawOthers = true
                close(descriptor)
                continue
            }
            connections.append((String(name.dropFirst(Self.prefix.count)), descriptor))
        }
        guard let only = connections.first else { return sawOthers ? .othersOnly : .none }
        guard connections.count == 1 else {
            for connection in connections { close(connection.descriptor) }
            return .several(connections.map { $0.tunnel.visibleText })
        }
        return .connected(only.descriptor)
    }

    /// Whoever connected isn't this user's program.
    struct Stranger: Error {}

    static func mayDial(_ channel: any Channel) -> EventLoopFuture<Bool> {
        guard let provider = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeSucceededFuture(false)
        }
        return provider.unsafeGetSocketOption(level: .socket, name: .init(rawValue: SO_PEERCRED))
            .map { (peer: LocalSocket.Credentials) in peer.user == geteuid() || peer.user == 0 }
    }
}
