import Libc

/// A lock on a file, held by one process at a time for as long as this value lives. The kernel releases it when the process
/// ends, for whatever reason (flock(2)).
public struct FileLock: ~Copyable, Sendable {
    private let descriptor: CInt

    /// Waits until no other process holds the lock.
    public static func acquire(_ path: String, mode: UInt32 = 0o600) throws(HostError) -> FileLock {
        guard let lock = try Self.take(path, mode: mode, waits: true) else {
            throw HostError("\(path) can't be locked", code: EWOULDBLOCK)
        }
        return lock
    }

    /// nil if another process holds it.
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

    /// For handing the lock to a child process: it is held until both processes have closed the descriptor.
    public var rawDescriptor: CInt { self.descriptor }

    /// The lock behind a descriptor that the parent process handed down.
    public static func inherited(_ descriptor: CInt) -> FileLock { FileLock(descriptor: descriptor) }

    deinit { close(self.descriptor) }
}
