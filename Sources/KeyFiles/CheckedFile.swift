import Libc

/// A file that passed the checks for its purpose, open for reading.
///
/// The checks are made on the open file, not on its name, so that exactly the checked file is read, even if it is renamed
/// meanwhile. Nothing blocks: a named pipe or a device is opened with O_NONBLOCK, recognised and refused.
struct CheckedFile: ~Copyable {
    private let descriptor: CInt
    private let path: String

    static func open(_ path: String, for purpose: FilePurpose) throws(KeyFileError) -> CheckedFile {
        // A list of peers may be a link, as clusters mount configuration that way. What matters is who may change the target.
        let links = purpose.isSecret ? O_NOFOLLOW : 0
        let descriptor = systemOpen(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | links)
        guard descriptor >= 0 else { throw KeyFileError(path: path, reason: reason(for: .last)) }
        let file = CheckedFile(descriptor: descriptor, path: path)
        try file.check(for: purpose)
        return file
    }

    private init(descriptor: CInt, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit {
        _ = close(descriptor)
    }

    /// Reads to the end, or until `bytes` is full.
    func read(into bytes: inout MutableRawSpan) throws(KeyFileError) -> Int {
        do {
            return try DescriptorIO.read(from: descriptor, into: &bytes)
        } catch {
            throw KeyFileError(path: path, reason: .system(error, during: .read))
        }
    }

    private func check(for purpose: FilePurpose) throws(KeyFileError) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw KeyFileError(path: path, reason: .system(.last, during: .open))
        }
        if let reason = Self.reason(against: status, for: purpose) { throw KeyFileError(path: path, reason: reason) }
    }

    private static func reason(against status: stat, for purpose: FilePurpose) -> KeyFileError.Reason? {
        let mode = UInt32(status.st_mode)
        switch mode & UInt32(S_IFMT) {
        case UInt32(S_IFREG): break
        case UInt32(S_IFDIR): return .notRegular(.directory)
        case UInt32(S_IFIFO): return .notRegular(.fifo)
        case UInt32(S_IFSOCK): return .notRegular(.socket)
        case UInt32(S_IFCHR), UInt32(S_IFBLK): return .notRegular(.device)
        default: return .notRegular(.other)
        }
        guard status.st_uid == geteuid() || status.st_uid == 0 else { return .foreignOwner(UInt32(status.st_uid)) }
        guard mode & purpose.forbiddenMode == 0 else { return .looseMode(mode & 0o7777, purpose) }
        // 0 means that the file was deleted after it was opened.
        guard !purpose.isSecret || status.st_nlink == 1 else { return .hardLinks(Int(status.st_nlink)) }
        return nil
    }

    private static func reason(for error: SystemError) -> KeyFileError.Reason {
        switch error.code {
        case ENOENT: .missing
        case ELOOP: .symbolicLink
        case ENXIO: .notRegular(.socket)
        default: .system(error, during: .open)
        }
    }
}
