public import HostSupport
import Libc
import NIOCore
import NIOPosix

/// Lets a program in the sidecar's network namespace find the sidecar: an abstract Unix socket whose name holds the address
/// of the tunnel's listener.
///
/// Two sidecars in one network namespace never listen at the same address, so these names differ. The name proves nothing:
/// both ends check the other's user, and the tunnel authenticates as everywhere.
public enum DialSocket {
    private static let prefix = "kl-sidecar/"

    /// Opens the socket that belongs to a tunnel's listener. It stays in the network namespace in which it was opened.
    ///
    /// - Parameter tunnel: HOST:PORT.
    public static func listen(for tunnel: String) throws(HostError) -> CInt {
        try AbstractSocket.listen(Self.prefix + tunnel)
    }

    public enum Found: Equatable, Sendable {
        case connected(CInt)
        case none
        /// All sidecars that run here belong to other users.
        case othersOnly
        /// Several sidecars run here: where their tunnels listen.
        case several([String])
    }

    /// Connects to this user's only sidecar here; root may connect to any user's.
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

    /// The program that connected belongs to another user.
    struct Stranger: Error {}

    static func mayDial(_ channel: any Channel) -> EventLoopFuture<Bool> {
        guard let provider = channel as? any SocketOptionProvider else {
            return channel.eventLoop.makeSucceededFuture(false)
        }
        return provider.unsafeGetSocketOption(level: .socket, name: .init(rawValue: SO_PEERCRED))
            .map { (peer: LocalSocket.Credentials) in peer.user == geteuid() || peer.user == 0 }
    }
}
