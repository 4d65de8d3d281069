#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Unix sockets with a path of any length.
///
/// An address has room for 107 bytes (unix(7)). A longer path is reached through its folder's descriptor, as
/// `/proc/self/fd/N/NAME`, so that a socket is where it belongs however long a home's name is.
public enum LocalSocket {
    /// Listens at a path, mode 0600 unless told otherwise. What is there already is removed: the caller holds a lock that says
    /// nobody listens there.
    public static func listen(at path: String, mode: UInt32 = 0o600) throws(HostError) -> CInt {
        unlink(path)
        let descriptor = try Self.make(path)
        let failure: HostError? = Self.withAddress(path) { address, size in
            // Before anyone can connect: the socket's own mode is what its file gets.
            // Less the umask, which bind(2) takes off: that comes back before anybody can be let in.
            guard fchmod(descriptor, mode_t(mode)) == 0, bind(descriptor, address, size) == 0,
                Self.setMode(ofSocket: path, mode), systemListen(descriptor, 256) == 0
            else { return .last(path, "can't be listened on") }
            return nil
        }
        if let failure {
            close(descriptor)
            throw failure
        }
        return descriptor
    }

    /// Of the socket itself: where others may write too, a link to somebody's file may be in its place by now.
    private static func setMode(ofSocket path: String, _ mode: UInt32) -> Bool {
        let descriptor = open(path, Self.path | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFSOCK) else {
            errno = ENOTSUP
            return false
        }
        return chmod("/proc/self/fd/\(descriptor)", mode_t(mode)) == 0
    }

    /// Nil: nobody listens there. Whoever listens and takes nobody is an error with the code ETIMEDOUT.
    ///
    /// - Parameter milliseconds: how long it may take to be let in, and later to send something.
    public static func connect(to path: String, within milliseconds: Int = Self.patience) throws(HostError) -> CInt? {
        let descriptor = try Self.make(path)
        var patience = timeval(tv_sec: milliseconds / 1_000, tv_usec: suseconds_t(milliseconds % 1_000 * 1_000))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let code: CInt = Self.withAddress(path) { address, size in
            while systemConnect(descriptor, address, size) != 0 {
                if errno == EAGAIN { return ETIMEDOUT }
                if errno != EINTR { return errno }
            }
            return 0
        }
        guard code != 0 else { return descriptor }
        close(descriptor)
        if code == ENOENT || code == ENOTDIR || code == ECONNREFUSED { return nil }
        throw HostError("\(path) can't be reached", code: code)
    }

    /// Who is at the other end, as the kernel says it (SO_PEERCRED).
    static func peer(of descriptor: CInt) -> Credentials? {
        var credentials = Credentials()
        var size = socklen_t(MemoryLayout<Credentials>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 else { return nil }
        return credentials
    }

    /// The kernel's `struct ucred` (unix(7)).
    public struct Credentials: Sendable {
        public var pid: Int32 = 0
        public var user: UInt32 = 0
        public var group: UInt32 = 0
    }

    /// † In milliseconds. A program that isn't stopped takes a connection within a few.
    public static let patience = 10_000

    /// O_PATH, which the Swift module of the C library doesn't show.
    private static let path: CInt = 0o10000000

    private static func make(_ path: String) throws(HostError) -> CInt {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .last(path, "can't be reached") }
        return descriptor
    }

    private static func withAddress<Result>(
        _ path: String,
        _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
    ) -> Result {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        var folder: CInt = -1
        defer { if folder >= 0 { close(folder) } }
        var text = path
        if path.utf8.count >= room {
            folder = open(SmallFile.parent(of: path), Self.path | O_DIRECTORY | O_CLOEXEC)
            let name = path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...]
            text = "/proc/self/fd/\(folder)/\(name)"
        }
        // A name that is too long even so is cut, and then isn't found.
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: text.utf8.prefix(room - 1)) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}

/// `listen` and `connect` are methods' names above.
private func systemListen(_ descriptor: CInt, _ backlog: CInt) -> CInt { listen(descriptor, backlog) }

private func systemConnect(_ descriptor: CInt, _ address: UnsafePointer<sockaddr>, _ size: socklen_t) -> CInt {
    connect(descriptor, address, size)
}
