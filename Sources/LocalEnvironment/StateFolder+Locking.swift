import Environments
import HostSupport
import Libc

extension StateFolder {
    /// † A change takes milliseconds. A process that holds the lock this long must have been stopped.
    private static let patienceMilliseconds = 10_000

    /// The lock for changes of the record. Waits while another process holds it.
    func acquireLock() throws(EnvironmentError) -> FileLock {
        for _ in 0..<Self.patienceMilliseconds / 2 {
            do throws(HostError) {
                if let lock = try FileLock.tryToAcquire(self.lock, mode: self.fileMode) {
                    // open(2) applied the umask to the mode, so set it again. A file of another user already has its mode
                    // from that user's kl.
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
