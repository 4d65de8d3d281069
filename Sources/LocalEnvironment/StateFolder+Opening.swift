import ComposeFiles
import Environments
import HostSupport
import Libc

extension StateFolder {
    /// The existing folder. Nil: there is none, so the environment has never been up.
    ///
    /// - Parameter file: the compose file.
    public static func open(besideFile file: String) throws(EnvironmentError) -> StateFolder? {
        // Nil also if the parent folder, with everything in it, was moved or removed.
        guard let parent = try FolderStatus.of(folderOf: file),
            let folder = try FolderStatus.of(parent.path + "/" + Self.name)
        else { return nil }
        try Self.check(folder, in: parent)
        return StateFolder(path: folder.path, isShared: parent.isShared)
    }

    /// The folder, which is created if it doesn't exist, with `logs/` in it.
    public static func make(besideFile file: String) throws(EnvironmentError) -> StateFolder {
        guard let parent = try FolderStatus.of(folderOf: file) else {
            throw EnvironmentError(HostError("\(SmallFile.parent(of: file)) can't be read", code: ENOENT))
        }
        let path = parent.path + "/" + Self.name
        let folder = StateFolder(path: path, isShared: parent.isShared)
        try parent.checkGroup()
        if mkdir(path, 0o700) == 0 {
            do throws(EnvironmentError) { try folder.share(with: parent) } catch {
                // A half-made folder would be refused from now on, for no reason that a user could see.
                rmdir(path)
                throw error
            }
        } else {
            let code = errno
            guard code == EEXIST else { throw EnvironmentError(HostError("\(path) can't be made", code: code)) }
            guard let existing = try FolderStatus.of(path) else {
                throw EnvironmentError(HostError("\(path) can't be made", code: code))
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
            throw EnvironmentError(HostError("\(folder.logs) can't be made", code: errno))
        } else if let logs = try FolderStatus.of(folder.logs), logs.mode & UInt32(S_IFMT) != UInt32(S_IFDIR) {
            throw EnvironmentError(.failed, "\(folder.logs) isn't a folder. Move it away: kl makes a folder there.")
        }
        return folder
    }

    private func share(with parent: FolderStatus) throws(EnvironmentError) {
        try Self.setRights(of: self.path, mode: self.folderMode, group: self.isShared ? parent.group : nil)
    }

    /// By descriptor and without following links: another user of the group may have replaced the folder by a link to one
    /// of this user's.
    private static func setRights(of path: String, mode: UInt32, group: UInt32?) throws(EnvironmentError) {
        let descriptor = systemOpen(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        defer { if descriptor >= 0 { close(descriptor) } }
        let isDone =
            descriptor >= 0 && (group.map { fchown(descriptor, uid_t.max, $0) == 0 } ?? true)
            && fchmod(descriptor, mode_t(mode)) == 0
        guard isDone else { throw EnvironmentError(HostError("\(path) can't be given its rights", code: errno)) }
    }

    /// A user who can write there could name processes to end and keys to accept.
    private static func check(_ folder: FolderStatus, in parent: FolderStatus) throws(EnvironmentError) {
        switch folder.mode & UInt32(S_IFMT) {
        case UInt32(S_IFDIR): break
        case UInt32(S_IFLNK):
            throw EnvironmentError(.failed, "\(folder.path) is a symbolic link. Remove it: kl makes a folder there.")
        default:
            throw EnvironmentError(.failed, "\(folder.path) isn't a folder. Move it away: kl makes a folder there.")
        }
        try parent.checkGroup()
        if parent.isShared {
            guard folder.user == geteuid() || folder.group == parent.group else {
                throw EnvironmentError(
                    .failed,
                    "\(folder.path) belongs to user \(folder.user) and not to the group \(parent.group), whose its folder is."
                        + " Ask them to run: chgrp \(parent.group) '\(folder.path)' && chmod 2770 '\(folder.path)'"
                )
            }
            guard folder.mode & 0o002 == 0 else {
                throw EnvironmentError(
                    .failed,
                    "\(folder.path) may be written by everybody. Look what is in it, then: chmod 2770 '\(folder.path)'"
                )
            }
        } else {
            guard folder.user == geteuid() else {
                throw EnvironmentError(
                    .failed,
                    "\(folder.path) belongs to user \(folder.user), and you are user \(geteuid())."
                        + " Share the folder above with a group of yours both (chmod g+w), or copy the compose file to one of your own."
                )
            }
            guard folder.mode & 0o022 == 0 else {
                throw EnvironmentError(
                    .failed,
                    "\(folder.path) may be written by others. Look what is in it, then: chmod 700 '\(folder.path)'"
                )
            }
        }
    }
}

/// In the extension above, `open` would be its own method.
private func systemOpen(_ path: String, _ flags: CInt) -> CInt { open(path, flags) }
