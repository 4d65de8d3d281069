import Libc

/// Small state files: read as a whole and replaced as a whole, so that a reader sees the old content or the new.
public enum SmallFile {
    /// nil if there is no file. A file larger than the limit is an error, as this program doesn't write such.
    public static func read(_ path: String, atMost limit: Int = 1_048_576) throws(HostError) -> [UInt8]? {
        // Without O_NONBLOCK, opening a pipe that was put there would block.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)
        guard descriptor >= 0 else {
            // ENOTDIR: a parent isn't a folder, so the file can't exist.
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw .last(path, "can't be read")
        }
        defer { close(descriptor) }
        guard Self.isRegular(descriptor) else { throw .notAFile(path, "can't be read") }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = piece.withUnsafeMutableBytes { systemRead(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw .last(path, "can't be read") }
            guard count > 0 else { return bytes }
            bytes += piece[..<count]
            guard bytes.count <= limit else { throw HostError("\(path) can't be read", code: EFBIG) }
        }
    }

    /// Whether it isn't a folder, pipe, socket or device.
    public static func isRegular(_ descriptor: CInt) -> Bool {
        var status = stat()
        return fstat(descriptor, &status) == 0 && UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFREG)
    }

    /// Writes another file, flushes it to the disk, and renames it over the old one. A full disk or a crash leaves the old one.
    public static func replace(_ path: String, with bytes: [UInt8], mode: UInt32 = 0o600) throws(HostError) {
        let other = "\(path).\(getpid()).\(UInt32.random(in: .min ... .max))"
        let descriptor = open(other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode_t(mode))
        guard descriptor >= 0 else { throw .last(path, "can't be written") }
        var failure: CInt?
        // open(2) applies the umask.
        if fchmod(descriptor, mode_t(mode)) != 0 { failure = errno }
        var rest = bytes[...]
        while failure == nil, !rest.isEmpty {
            let count = rest.withUnsafeBytes { systemWrite(descriptor, $0.baseAddress, $0.count) }
            if count >= 0 { rest.removeFirst(count) } else if errno != EINTR { failure = errno }
        }
        if failure == nil, fsync(descriptor) != 0 { failure = errno }
        close(descriptor)
        if failure == nil, rename(other, path) != 0 { failure = errno }
        guard let failure else { return }
        unlink(other)
        throw HostError("\(path) can't be written", code: failure)
    }

    /// Creates a folder and its missing parents.
    public static func makeFolder(_ path: String, mode: UInt32 = 0o700) throws(HostError) {
        if mkdir(path, mode_t(mode)) == 0 || errno == EEXIST { return }
        let parent = Self.parent(of: path)
        guard errno == ENOENT, parent != path else { throw .last(path, "can't be made") }
        try Self.makeFolder(parent, mode: mode)
        guard mkdir(path, mode_t(mode)) == 0 || errno == EEXIST else { throw .last(path, "can't be made") }
    }

    public static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
