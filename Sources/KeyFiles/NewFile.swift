import Libc
import Noise

/// Writes a secret to a new file, so that no other process can have it open or have chosen its mode.
enum NewFile {
    static func write(_ secret: consuming LockedBytes, to path: String) throws(KeyFileError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            let error = SystemError.last
            throw KeyFileError(
                path: path,
                reason: error.code == EEXIST ? .alreadyExists : .system(error, during: .create)
            )
        }
        defer { _ = close(descriptor) }
        do throws(SystemError) {
            // The umask may have removed the owner's bits.
            guard fchmod(descriptor, 0o600) == 0 else { throw SystemError.last }
            try secret.withBytes { bytes throws(SystemError) in try DescriptorIO.write(bytes, to: descriptor) }
            guard fsync(descriptor) == 0 else { throw SystemError.last }
        } catch {
            // Half a key is useless, and would block the next attempt.
            _ = unlink(path)
            throw KeyFileError(path: path, reason: .system(error, during: .write))
        }
        syncDirectory(of: path)
    }

    /// Makes the file's name survive a power cut. Best effort: the key is written, and some file systems can't do this.
    private static func syncDirectory(of path: String) {
        let parent = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        let directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        _ = fsync(directory)
        _ = close(directory)
    }
}
