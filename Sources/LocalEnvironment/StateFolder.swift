import ComposeFiles
import Environments
import HostSupport
import InterceptModel
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
    /// What some of the keys may do, as lines of a peers file: written by a person, and read by the supervisor.
    public var rights: String { self.path + "/rights" }
    public var logs: String { self.path + "/logs" }
    public var supervisorLog: String { self.logs + "/supervisor.log" }
    public func log(ofService name: String) -> String { self.logs + "/\(name).log" }
    /// - Parameter name: the sidecar's name: `api-server-1`.
    public func log(ofSidecar name: String) -> String { self.logs + "/\(name).sidecar.log" }
}

extension StateFolder {
    /// The existing folder. Nil: there is none, so the environment has never been up.
    ///
    /// - Parameter file: the compose file.
    public static func open(besideFile file: String) throws(Problem) -> StateFolder? {
        // Nil also if the parent folder, with everything in it, was moved or removed.
        guard let parent = try FolderStatus.of(folderOf: file),
            let folder = try FolderStatus.of(parent.path + "/" + Self.name)
        else { return nil }
        try Self.check(folder, in: parent)
        return StateFolder(path: folder.path, isShared: parent.isShared)
    }

    /// The folder, which is created if it doesn't exist, with `logs/` in it.
    public static func make(besideFile file: String) throws(Problem) -> StateFolder {
        guard let parent = try FolderStatus.of(folderOf: file) else {
            throw Problem(HostError("\(SmallFile.parent(of: file)) can't be read", code: ENOENT))
        }
        let path = parent.path + "/" + Self.name
        let folder = StateFolder(path: path, isShared: parent.isShared)
        try parent.checkGroup()
        if mkdir(path, 0o700) == 0 {
            do throws(Problem) { try folder.share(with: parent) } catch {
                // A half-made folder would be refused from now on, for no reason that a user could see.
                rmdir(path)
                throw error
            }
        } else {
            let code = errno
            guard code == EEXIST else { throw Problem(HostError("\(path) can't be made", code: code)) }
            guard let existing = try FolderStatus.of(path) else {
                throw Problem(HostError("\(path) can't be made", code: code))
            }
            try Self.check(existing, in: parent)
            // The compose file's folder was shared with a group after this folder was made.
            if existing.user == geteuid(), existing.mode & 0o7777 != folder.folderMode {
                try folder.share(with: parent)
            }
        }
        if mkdir(folder.logs, 0o700) == 0 {
            // The group is inherited from the folder above, which is setgid.
            try Self.setRights(of: folder.logs, mode: folder.folderMode, group: nil)
        } else if errno != EEXIST {
            throw Problem(HostError("\(folder.logs) can't be made", code: errno))
        } else if let logs = try FolderStatus.of(folder.logs), logs.mode & UInt32(S_IFMT) != UInt32(S_IFDIR) {
            throw Problem(.failed, "\(folder.logs) isn't a folder", "Move it away: kl makes a folder there.")
        }
        return folder
    }

    private func share(with parent: FolderStatus) throws(Problem) {
        try Self.setRights(of: self.path, mode: self.folderMode, group: self.isShared ? parent.group : nil)
    }

    /// By descriptor and without following links: another user of the group may have replaced the folder by a link to one
    /// of this user's.
    private static func setRights(of path: String, mode: UInt32, group: UInt32?) throws(Problem) {
        let descriptor = systemOpen(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        defer { if descriptor >= 0 { close(descriptor) } }
        let isDone =
            descriptor >= 0 && (group.map { fchown(descriptor, uid_t.max, $0) == 0 } ?? true)
            && fchmod(descriptor, mode_t(mode)) == 0
        guard isDone else { throw Problem(HostError("\(path) can't be given its rights", code: errno)) }
    }

    /// A user who can write there could name processes to end and keys to accept.
    private static func check(_ folder: FolderStatus, in parent: FolderStatus) throws(Problem) {
        switch folder.mode & UInt32(S_IFMT) {
        case UInt32(S_IFDIR): break
        case UInt32(S_IFLNK):
            throw Problem(.failed, "\(folder.path) is a symbolic link", "Remove it: kl makes a folder there.")
        default:
            throw Problem(.failed, "\(folder.path) isn't a folder", "Move it away: kl makes a folder there.")
        }
        try parent.checkGroup()
        if parent.isShared {
            guard folder.user == geteuid() || folder.group == parent.group else {
                throw Problem(
                    .failed,
                    "\(folder.path) belongs to user \(folder.user) and not to the group \(parent.group), whose its folder is",
                    "Ask them to run: chgrp \(parent.group) '\(folder.path)' && chmod 2770 '\(folder.path)'"
                )
            }
            guard folder.mode & 0o002 == 0 else {
                throw Problem(
                    .failed,
                    "\(folder.path) may be written by everybody",
                    "Look what is in it, then: chmod 2770 '\(folder.path)'"
                )
            }
        } else {
            guard folder.user == geteuid() else {
                throw Problem(
                    .failed,
                    "\(folder.path) belongs to user \(folder.user), and you are user \(geteuid())",
                    "Share the folder above with a group of yours both (chmod g+w), or copy the compose file to one of your own."
                )
            }
            guard folder.mode & 0o022 == 0 else {
                throw Problem(
                    .failed,
                    "\(folder.path) may be written by others",
                    "Look what is in it, then: chmod 700 '\(folder.path)'"
                )
            }
        }
    }
}

extension StateFolder {
    /// † A change takes milliseconds. A process that holds the lock this long must have been stopped.
    private static let patienceMilliseconds = 10_000

    /// The lock for changes of the record. Waits while another process holds it.
    func acquireLock() throws(Problem) -> FileLock {
        for _ in 0..<Self.patienceMilliseconds / 2 {
            do throws(HostError) {
                if let lock = try FileLock.tryToAcquire(self.lock, mode: self.fileMode) {
                    // open(2) applied the umask to the mode, so set it again. A file of another user already has its mode
                    // from that user's kl.
                    fchmod(lock.rawDescriptor, mode_t(self.fileMode))
                    return lock
                }
            } catch {
                throw Problem(error)
            }
            usleep(2_000)
        }
        throw Problem(
            .failed,
            "\(self.lock) has been held for \(Self.patienceMilliseconds / 1_000) s by another process",
            "Look which one hangs (fuser '\(self.lock)'), and end it."
        )
    }
}
