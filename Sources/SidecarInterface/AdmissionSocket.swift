import CommandText
public import HostSupport
public import InterceptModel
import Libc

/// The socket by which a program beside the sidecar tells it which keys to admit: an abstract Unix socket whose name holds the
/// address of the tunnel's listener, like the name of the socket of `kl-sidecar dial`.
///
/// Abstract names belong to a network namespace, which several containers may share. So each end checks the process at the
/// other (`LocalPeer`): it must be of the same user, or root, and in the same mount namespace.
public enum AdmissionSocket {
    private static let prefix = "kl-sidecar-admission/"

    /// Opens the socket. It stays in the network namespace in which it was opened.
    ///
    /// - Parameter tunnel: HOST:PORT.
    public static func listen(for tunnel: String) throws(HostError) -> CInt {
        try AbstractSocket.listen(Self.prefix + tunnel)
    }

    /// What is asked, in one line. The next line is the answer, and the connection's end.
    public enum Request: Codable, Equatable, Sendable {
        /// - Parameter line: an `Admission`.
        case admit(line: String, force: Bool)
        /// - Parameter key: base64.
        case leave(key: String)
        case end
        /// Ends if nobody needs the sidecar: one decision, so that no key is admitted between the question and the end.
        ///
        /// - Parameter except: base64, keys that don't count.
        case endIfUnused(except: [String])
        case holders
    }

    public struct Reply: Codable, Equatable, Sendable {
        /// What the program prints: an object of JSON.
        public var line: String
        /// What was asked for is done.
        public var isDone: Bool

        public init(line: String, isDone: Bool) {
            self.line = line
            self.isDone = isDone
        }
    }

    /// † In milliseconds, for the sidecar's answer. It is made at once, unless the sidecar hangs.
    public static let patience = 10_000

    /// Why a program that connected is refused; nil: it isn't.
    public static func refusal(of peer: LocalPeer) -> String? {
        guard peer.user == geteuid() || peer.user == 0 else { return "it is user \(peer.user)'s" }
        return switch peer.place() {
        case .here: nil
        case .elsewhere: "it is in another mount namespace, as a container beside this one is"
        case .unknown(let code): "where it runs can't be told: \(String(cString: strerror(code)).lowercased())"
        }
    }

    /// Connects to this user's only sidecar in this mount namespace, or, as root without one, to another user's. `several` has the
    /// addresses of the sidecars' tunnel listeners.
    ///
    /// - Parameter tunnel: which one, if it isn't the only one.
    public static func connect(to tunnel: Endpoint?) throws(HostError) -> AbstractSocket.Found {
        let own = geteuid()
        let names = try AbstractSocket.names(from: Self.prefix).filter { name in
            tunnel.map { Self.isMeant($0, by: name.dropFirst(Self.prefix.count)) } ?? true
        }
        // This program can't look at a sidecar with more capabilities than its own. The sidecar will look at this program.
        var found = try AbstractSocket.connect(toOnlyOneOf: names) { $0.user == own && $0.place() != .elsewhere }
        // Other users' programs count only where root has no sidecar: any of them may listen under such a name.
        if own == 0, found == .othersOnly {
            found = try AbstractSocket.connect(toOnlyOneOf: names) { $0.place() != .elsewhere }
        }
        guard case .several(let names) = found else { return found }
        return .several(names.map { String($0.dropFirst(Self.prefix.count)).visibleText })
    }

    /// A sidecar that listens on all addresses is also meant by one of them.
    private static func isMeant(_ tunnel: Endpoint, by name: Substring) -> Bool {
        guard let listener = try? Flags.endpoint(String(name)) else { return false }
        return listener == tunnel || (["0.0.0.0", "::"].contains(listener.host) && listener.port == tunnel.port)
    }
}
