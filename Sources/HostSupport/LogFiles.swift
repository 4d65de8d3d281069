#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The files to which programs write what they have to say.
///
/// Others may write in a shared folder too, and put a link in the place of a file or of the folder that holds it: neither is
/// followed, and all that is done to a file is done in the folder that was opened first.
public enum LogFiles {
    public static let limit: Int64 = 10 * 1_048_576

    /// Opened to append, so that a file which is cut goes on at its beginning.
    public static func open(_ path: String, mode: UInt32) throws(HostError) -> CInt {
        guard let folder = Folder(of: path) else { throw HostError("\(path) can't be written", code: errno) }
        // A pipe that somebody put there would be waited for.
        let flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK
        let descriptor = openat(folder.descriptor, folder.name, flags, mode_t(mode))
        guard descriptor >= 0 else { throw HostError("\(path) can't be written", code: errno) }
        guard SmallFile.isRegular(descriptor) else {
            close(descriptor)
            throw .notAFile(path, "can't be written")
        }
        _ = fcntl(descriptor, F_SETFL, O_WRONLY | O_APPEND)
        // open(2) takes the mode through the umask; the file of another member of the group has it already.
        fchmod(descriptor, mode_t(mode))
        return descriptor
    }

    /// A file that has grown too large is copied aside and cut: whoever writes to it keeps the same file. At most so much is
    /// kept, the end of it. Where there is no room for the copy, there is all the more need to cut.
    ///
    /// - Parameter followsFolders: nobody else may write where the folder is.
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
        // What is cut is what was looked at, whatever is put in its place meanwhile.
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
        // What is written meanwhile comes with it, up to a bound.
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

        /// Neither the folder nor the one above it may be a link, unless they are followed. Nil: they can't be opened (errno).
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

/// `open` is a method's name above.
private func systemOpen(_ path: String, _ flags: CInt) -> CInt { open(path, flags) }
