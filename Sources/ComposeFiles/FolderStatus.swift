import Environments
import HostSupport
import InterceptModel
import Libc

/// A path's owner and rights; a symbolic link isn't followed. They say whether a folder is shared with a group.
package struct FolderStatus {
    package var path: String
    package var mode: UInt32
    package var user: UInt32
    package var group: UInt32

    /// Writable by its group but not by everybody, as /tmp is.
    package var isShared: Bool { self.mode & 0o022 == 0o020 }

    /// Nil: nothing is there.
    package static func of(_ path: String) throws(Problem) -> FolderStatus? {
        var status = stat()
        guard lstat(path, &status) == 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw Problem(HostError("\(path) can't be read", code: code))
        }
        return FolderStatus(path: path, mode: UInt32(status.st_mode), user: status.st_uid, group: status.st_gid)
    }

    package static func of(folderOf file: String) throws(Problem) -> FolderStatus? {
        let path = SmallFile.parent(of: file)
        var status = stat()
        guard stat(path, &status) == 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw Problem(HostError("\(path) can't be read", code: code))
        }
        let name = path == "/" ? "" : path
        return FolderStatus(path: name, mode: UInt32(status.st_mode), user: status.st_uid, group: status.st_gid)
    }

    /// Whether the compose file's folder is shared with a group that this user is in.
    package static func isShared(besideFile file: String) -> Bool {
        guard let parent = try? Self.of(folderOf: file), parent.isShared else { return false }
        return (try? parent.checkGroup()) != nil
    }

    /// Refuses a folder that is writable by a group to which this user doesn't belong.
    package func checkGroup() throws(Problem) {
        guard self.isShared, self.user != geteuid(), !Self.isMember(of: self.group) else { return }
        throw Problem(
            .failed,
            "\(self.path.isEmpty ? "/" : self.path) may be written by the group \(self.group), and you aren't in it:"
                + " what they write there could name your processes to end",
            "Copy the compose file to a folder of your own."
        )
    }

    private static func isMember(of group: UInt32) -> Bool {
        if group == getegid() { return true }
        var groups = [gid_t](repeating: 0, count: Int(max(0, getgroups(0, nil))))
        let count = getgroups(CInt(groups.count), &groups)
        return groups.prefix(Int(max(0, count))).contains(group)
    }
}
