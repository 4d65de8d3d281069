import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The files to which children write, and the supervisor itself.
enum LogFiles {
    static let limit: Int64 = 10 * 1_048_576

    /// Opened to append, so that a file which is cut goes on at its beginning.
    static func open(_ path: String, mode: UInt32) throws(HostError) -> CInt {
        // A pipe that somebody put there would be waited for.
        let flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK
        let descriptor = systemOpen(path, flags, mode)
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
    static func cutIfLarge(_ path: String, mode: UInt32, limit: Int64 = LogFiles.limit) {
        var status = stat()
        guard lstat(path, &status) == 0, Int64(status.st_size) > limit else { return }
        // What is cut is what was looked at, whatever is put in its place meanwhile.
        let source = systemOpen(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0)
        guard source >= 0 else { return }
        defer { close(source) }
        guard SmallFile.isRegular(source), fstat(source, &status) == 0, Int64(status.st_size) > limit else { return }
        if Self.copy(source, from: Int64(status.st_size) - limit, to: "\(path).new", mode: mode) {
            rename("\(path).new", "\(path).1")
        } else {
            unlink("\(path).new")
        }
        ftruncate(source, 0)
    }

    private static func copy(_ source: CInt, from offset: Int64, to path: String, mode: UInt32) -> Bool {
        unlink(path)
        let target = systemOpen(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)
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
}

/// `open` is a method's name above.
private func systemOpen(_ path: String, _ flags: CInt, _ mode: UInt32) -> CInt { open(path, flags, mode_t(mode)) }
