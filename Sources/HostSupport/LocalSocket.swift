import Libc

/// Unix sockets with a path of any length.
///
/// A socket address has room for 107 bytes (unix(7)). A longer path is reached through its folder's descriptor, as
/// `/proc/self/fd/N/NAME`, so that the socket can be at its place however long the home's path is.
public enum LocalSocket {
    /// Listens at a path, with mode 0600 by default. An existing file is removed: the caller must hold a lock that ensures
    /// that no other process listens there.
    public static func listen(at path: String, mode: UInt32 = 0o600) throws(HostError) -> CInt {
        unlink(path)
        let descriptor = try Self.make(path)
        let failure: HostError? = Self.withAddress(path) { address, size in
            // The socket's mode becomes its file's, less the umask that bind(2) applies. `setMode` restores those bits
            // before listen(2), so before any process can connect.
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

    /// Changes the socket itself: in a folder that others may write to, its path may have become a link to another file.
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

    /// nil if no process listens there. If one listens but doesn't accept, the error's code is ETIMEDOUT.
    ///
    /// - Parameter milliseconds: how long connecting may take, and later each send.
    public static func connect(to path: String, within milliseconds: Int = Self.patience) throws(HostError) -> CInt? {
        let descriptor = try Self.make(path)
        Self.limitSending(
            descriptor,
            timeval(tv_sec: milliseconds / 1_000, tv_usec: suseconds_t(milliseconds % 1_000 * 1_000))
        )
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

    /// The limit applies to connect(2) as well; 0 means none.
    static func limitSending(_ descriptor: CInt, _ limit: timeval) {
        var limit = limit
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// The process at the other end, according to the kernel (SO_PEERCRED).
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

    /// † In milliseconds. A program that isn't stopped accepts a connection within a few.
    public static let patience = 10_000

    /// O_PATH, which the C library's Swift module lacks.
    private static let path: CInt = 0o10000000

    private static func make(_ path: String) throws(HostError) -> CInt {
        let descriptor = socket(AF_UNIX, SocketType.stream | SocketType.closedByExec, 0)
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
        // A name that is still too long is cut, and then isn't found.
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: text.utf8.prefix(room - 1)) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
