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

    /// Connects to this user's only sidecar here whose tunnel listens at an address that is wanted; root may connect to any user's.
    /// `several` has the addresses of the sidecars' tunnel listeners.
    public static func connect(
        where isWanted: (_ tunnel: String) -> Bool = { _ in true }
    ) throws(HostError) -> AbstractSocket.Found {
        let own = geteuid()
        let names = try AbstractSocket.names(from: Self.prefix).filter {
            isWanted(String($0.dropFirst(Self.prefix.count)))
        }
        let found = try AbstractSocket.connect(toOnlyOneOf: names) { own == 0 || $0.user == own }
        guard case .several(let names) = found else { return found }
        return .several(names.map { String($0.dropFirst(Self.prefix.count)).visibleText })
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
