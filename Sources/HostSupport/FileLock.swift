#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// A file that one process at a time holds, for as long as this value lives. The kernel lets it go with the process,
/// whatever ends it (flock(2)).
public struct FileLock: ~Copyable, Sendable {
    private let descriptor: CInt

    /// Waits until nobody else holds it.
    public static func acquire(_ path: String, mode: UInt32 = 0o600) throws(HostError) -> FileLock {
        guard let lock = try Self.take(path, mode: mode, waits: true) else {
            throw HostError("\(path) can't be locked", code: EWOULDBLOCK)
        }
        return lock
    }

    /// Nil: someone holds it.
    public static func tryToAcquire(_ path: String, mode: UInt32 = 0o600) throws(HostError) -> FileLock? {
        try Self.take(path, mode: mode, waits: false)
    }

    private static func take(_ path: String, mode: UInt32, waits: Bool) throws(HostError) -> FileLock? {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, mode_t(mode))
        guard descriptor >= 0 else { throw .last(path, "can't be opened") }
        while flock(descriptor, waits ? LOCK_EX : LOCK_EX | LOCK_NB) != 0 {
            let code = errno
            if code == EINTR { continue }
            close(descriptor)
            if code == EWOULDBLOCK { return nil }
            throw HostError("\(path) can't be locked", code: code)
        }
        return FileLock(descriptor: descriptor)
    }

    private init(descriptor: CInt) { self.descriptor = descriptor }

    /// The same lock under another descriptor, for a child: the lock holds until both are closed.
    public var rawDescriptor: CInt { self.descriptor }

    /// What a parent handed down.
    public static func inherited(_ descriptor: CInt) -> FileLock { FileLock(descriptor: descriptor) }

    deinit { close(self.descriptor) }
}
