import Environments
import HostSupport
import Libc

/// `.kl/`: the folder beside a compose file that holds everything a local environment stores.
///
/// Only its owner may use it (0700), unless the compose file's folder is writable by a group: then the group may (02770),
/// so that two developers on one machine can share the environment.
public struct StateFolder: Equatable, Sendable {
    public static let name = ".kl"

    public let path: String
    /// Whether the folder's group may use the environment.
    public let isShared: Bool

    init(path: String, isShared: Bool) {
        self.path = path
        self.isShared = isShared
    }

    public var folderMode: UInt32 { self.isShared ? 0o2770 : 0o700 }
    /// The mode of files in it, and of the socket. `peers` is its owner's only, even in a shared folder.
    public var fileMode: UInt32 { self.isShared ? 0o660 : 0o600 }

    /// Held during each change of the record.
    public var lock: String { self.path + "/lock" }
    public var record: String { self.path + "/record.json" }
    /// Held by the supervisor as long as it lives.
    public var supervisorLock: String { self.path + "/supervisor.lock" }
    public var supervisorSocket: String { self.path + "/supervisor.sock" }
    public var state: String { self.path + "/state.json" }
    public var peers: String { self.path + "/peers" }
    public var logs: String { self.path + "/logs" }
    public var supervisorLog: String { self.logs + "/supervisor.log" }
    public func log(ofService name: String) -> String { self.logs + "/\(name).log" }
    /// - Parameter name: the sidecar's name: `api-server-1`.
    public func log(ofSidecar name: String) -> String { self.logs + "/\(name).sidecar.log" }
}

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
