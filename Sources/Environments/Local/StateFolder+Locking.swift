import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

extension StateFolder {
    /// † A change takes milliseconds. Whoever holds the lock this long has been stopped.
    private static let patienceMilliseconds = 10_000

    /// The lock that is held for each change of the record. Waits for others.
    func acquireLock() throws(EnvironmentError) -> FileLock {
        for _ in 0..<Self.patienceMilliseconds / 2 {
            do throws(HostError) {
                if let lock = try FileLock.tryToAcquire(self.lock, mode: self.fileMode) {
                    // open(2) took the mode through the umask. Another's file has been given its mode by them.
                    fchmod(lock.rawDescriptor, mode_t(self.fileMode))
                    return lock
                }
            } catch {
                throw EnvironmentError(error)
            }
            usleep(2_000)
        }
        throw EnvironmentError(
            .failed,
            "\(self.lock) has been held for \(Self.patienceMilliseconds / 1_000) s by another process."
                + " Look which one hangs (fuser '\(self.lock)'), and end it."
        )
    }
}
