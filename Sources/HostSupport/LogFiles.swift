import Libc

/// The log files of programs.
///
/// In a shared folder, other users may replace a file or its folder by a link: links aren't followed, and every step
/// happens in the folder that was opened first.
public enum LogFiles {
    public static let limit: Int64 = 10 * 1_048_576

    /// Opened for appending, so that writing continues at the beginning after the file is truncated.
    public static func open(_ path: String, mode: UInt32) throws(HostError) -> CInt {
        guard let folder = Folder(of: path) else { throw HostError("\(path) can't be written", code: errno) }
        // Without O_NONBLOCK, opening a pipe that was put there would block.
        let flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK
        let descriptor = openat(folder.descriptor, folder.name, flags, mode_t(mode))
        guard descriptor >= 0 else { throw HostError("\(path) can't be written", code: errno) }
        guard SmallFile.isRegular(descriptor) else {
            close(descriptor)
            throw .notAFile(path, "can't be written")
        }
        _ = fcntl(descriptor, F_SETFL, O_WRONLY | O_APPEND)
        // open(2) applies the umask. This fails for a file of another group member, which has its mode already.
        fchmod(descriptor, mode_t(mode))
        return descriptor
    }

    /// Copies the end of a file that has grown too large, at most `limit` bytes, and truncates the file, so that its
    /// writers keep the same file. If there is no room for the copy, truncating is all the more necessary.
    ///
    /// - Parameter followsFolders: whether links to folders are followed, which is safe if no other user may write there.
    public static func cutIfLarge(
        _ path: String,
        mode: UInt32,
        limit: Int64 = LogFiles.limit,
        followsFolders: Bool = false
    ) {
        var status = stat()
        guard lstat(path, &status) == 0, Int64(status.st_size) > limit,
            let folder = Folder(of: path, follows: followsFolders)
        else { return }
        // From here on the opened file is used, even if its path gets replaced.
        let flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK
        let source = openat(folder.descriptor, folder.name, flags)
        guard source >= 0 else { return }
        defer { close(source) }
        guard SmallFile.isRegular(source), fstat(source, &status) == 0, Int64(status.st_size) > limit else { return }
        let (new, old) = ("\(folder.name).new", "\(folder.name).1")
        if Self.copy(source, from: Int64(status.st_size) - limit, to: new, in: folder, mode: mode) {
            renameat(folder.descriptor, new, folder.descriptor, old)
        } else {
            unlinkat(folder.descriptor, new, 0)
        }
        ftruncate(source, 0)
    }

    private static func copy(
        _ source: CInt,
        from offset: Int64,
        to name: String,
        in folder: borrowing Folder,
        mode: UInt32
    ) -> Bool {
        unlinkat(folder.descriptor, name, 0)
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW
        let target = openat(folder.descriptor, name, flags, mode_t(mode))
        guard target >= 0 else { return false }
        defer { close(target) }
        fchmod(target, mode_t(mode))
        guard lseek(source, off_t(offset), SEEK_SET) >= 0 else { return false }
        // Bytes written meanwhile are copied, too, up to a bound.
        var rest = Self.limit * 2
        while rest > 0 {
            let count = sendfile(target, source, nil, Int(min(rest, 1_048_576)))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return false }
            if count == 0 { return true }
            rest -= Int64(count)
        }
        return true
    }

    /// A file's folder, held open.
    private struct Folder: ~Copyable {
        let descriptor: CInt
        let name: String

        /// Neither the folder nor its parent may be a link, unless `follows` is set. nil if they can't be opened (errno).
        init?(of path: String, follows: Bool = false) {
            let folder = SmallFile.parent(of: path)
            let above = SmallFile.parent(of: folder)
            let flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follows ? 0 : O_NOFOLLOW)
            let top = systemOpen(above, flags)
            guard top >= 0 else { return nil }
            let descriptor = folder == above ? top : openat(top, Self.last(of: folder), flags)
            let code = errno
            if descriptor != top { close(top) }
            errno = code
            guard descriptor >= 0 else { return nil }
            self.descriptor = descriptor
            self.name = Self.last(of: path)
        }

        private static func last(of path: String) -> String {
            path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
        }

        deinit { close(self.descriptor) }
    }
}
