import HostSupport
import Libc

extension StateFolder {
    /// The existing folder. Nil: there is none, so the environment has never been up.
    ///
    /// - Parameter file: the compose file.
    public static func open(besideFile file: String) throws(EnvironmentError) -> StateFolder? {
        // Nil also if the parent folder, with everything in it, was moved or removed.
        guard let parent = try Status.of(folderOf: file),
            let folder = try Status.of(parent.path + "/" + Self.name)
        else { return nil }
        try Self.check(folder, in: parent)
        return StateFolder(path: folder.path, isShared: parent.isShared)
    }

    /// The folder, which is created if it doesn't exist, with `logs/` in it.
    public static func make(besideFile file: String) throws(EnvironmentError) -> StateFolder {
        guard let parent = try Status.of(folderOf: file) else {
            throw EnvironmentError(HostError("\(SmallFile.parent(of: file)) can't be read", code: ENOENT))
        }
        let path = parent.path + "/" + Self.name
        let folder = StateFolder(path: path, isShared: parent.isShared)
        try Self.checkGroup(of: parent)
        if mkdir(path, 0o700) == 0 {
            do throws(EnvironmentError) { try folder.share(with: parent) } catch {
                // A half-made folder would be refused from now on, for no reason that a user could see.
                rmdir(path)
                throw error
            }
        } else {
            let code = errno
            guard code == EEXIST else { throw EnvironmentError(HostError("\(path) can't be made", code: code)) }
            guard let existing = try Status.of(path) else {
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
        } else if let logs = try Status.of(folder.logs), logs.mode & UInt32(S_IFMT) != UInt32(S_IFDIR) {
            throw EnvironmentError(.failed, "\(folder.logs) isn't a folder. Move it away: kl makes a folder there.")
        }
        return folder
    }

    private func share(with parent: Status) throws(EnvironmentError) {
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

    /// Whether the compose file's folder is shared with a group that this user is in.
    static func isShared(besideFile file: String) -> Bool {
        guard let parent = try? Status.of(folderOf: file), parent.isShared else { return false }
        return (try? Self.checkGroup(of: parent)) != nil
    }

    /// Refuses a folder that is writable by a group to which this user doesn't belong.
    private static func checkGroup(of parent: Status) throws(EnvironmentError) {
        guard parent.isShared, parent.user != geteuid(), !Self.isMember(of: parent.group) else { return }
        throw EnvironmentError(
            .failed,
            "\(parent.path.isEmpty ? "/" : parent.path) may be written by the group \(parent.group), and you aren't in it:"
                + " what they write there could name your processes to end. Copy the compose file to a folder of your own."
        )
    }

    private static func isMember(of group: UInt32) -> Bool {
        if group == getegid() { return true }
        var groups = [gid_t](repeating: 0, count: Int(max(0, getgroups(0, nil))))
        let count = getgroups(CInt(groups.count), &groups)
        return groups.prefix(Int(max(0, count))).contains(group)
    }

    /// A user who can write there could name processes to end and keys to accept.
    private static func check(_ folder: Status, in parent: Status) throws(EnvironmentError) {
        switch folder.mode & UInt32(S_IFMT) {
        case UInt32(S_IFDIR): break
        case UInt32(S_IFLNK):
            throw EnvironmentError(.failed, "\(folder.path) is a symbolic link. Remove it: kl makes a folder there.")
        default:
            throw EnvironmentError(.failed, "\(folder.path) isn't a folder. Move it away: kl makes a folder there.")
        }
        try Self.checkGroup(of: parent)
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

/// The status of a path; a symbolic link isn't followed.
private struct Status {
    var path: String
    var mode: UInt32
    var user: UInt32
    var group: UInt32

    /// Writable by its group but not by everybody, as /tmp is.
    var isShared: Bool { self.mode & 0o022 == 0o020 }

    /// Nil: nothing is there.
    static func of(_ path: String) throws(EnvironmentError) -> Status? {
        var status = stat()
        guard lstat(path, &status) == 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw EnvironmentError(HostError("\(path) can't be read", code: code))
        }
        return Status(path: path, mode: UInt32(status.st_mode), user: status.st_uid, group: status.st_gid)
    }

    static func of(folderOf file: String) throws(EnvironmentError) -> Status? {
        let path = SmallFile.parent(of: file)
        var status = stat()
        guard stat(path, &status) == 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw EnvironmentError(HostError("\(path) can't be read", code: code))
        }
        let name = path == "/" ? "" : path
        return Status(path: name, mode: UInt32(status.st_mode), user: status.st_uid, group: status.st_gid)
    }
}

/// In the extension above, `open` would be its own method.
private func systemOpen(_ path: String, _ flags: CInt) -> CInt { open(path, flags) }
