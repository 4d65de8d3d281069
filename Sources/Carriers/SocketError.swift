import Libc
import NIOCore
import NIOPosix

/// Describes a socket's error for people.
public enum SocketError {
    public static func describe(_ error: any Error) -> String {
        switch error {
        case let error as NIOConnectionError:
            if let error = error.connectionErrors.last { return Self.describe(error.error) }
            return "its name can't be looked up"
        case let error as IOError: return Self.text(of: error.errnoCode)
        case SocketAddressError.unknown, is SocketAddressError.UnknownHost: return "its name can't be looked up"
        default:
            if case ChannelError.connectTimeout = error { return "no answer" }
            return "\(error)"
        }
    }

    /// Nothing listens there.
    public static func isRefusal(_ error: any Error) -> Bool { (error as? IOError)?.errnoCode == ECONNREFUSED }

    /// With the address to which the socket is bound, no port is left for a connection to that destination.
    public static func isWithoutPort(_ error: any Error) -> Bool { (error as? IOError)?.errnoCode == EADDRNOTAVAIL }

    private static func text(of code: CInt) -> String {
        switch code {
        case ECONNREFUSED: "connection refused"
        case EADDRINUSE: "the address is in use already"
        case EADDRNOTAVAIL: "that isn't an address of this machine"
        case EACCES: "permission denied"
        default: String(cString: strerror(code)).lowercased()
        }
    }
}
