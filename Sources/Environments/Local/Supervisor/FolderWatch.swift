#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Sees that `.kl/` was moved or removed while the environment is up. Nobody can reach the supervisor then, so nothing but itself
/// could end what it runs.
struct FolderWatch {
    enum Finding {
        case there
        /// There is nothing in its place.
        case gone
        /// There is, and it isn't ours: nothing in it may be touched.
        case replaced
    }

    /// † Not at once: whoever moves a folder may move it back.
    static let looks = 2

    private let path: String
    private let first: (device: UInt64, inode: UInt64)?
    private var missed = 0

    init(_ path: String) {
        self.path = path
        self.first = Self.identity(path)
    }

    /// Looks once; what is found counts when it was found that often, one after the other.
    mutating func look() -> Finding {
        let finding = self.now
        self.missed = finding == .there ? 0 : self.missed + 1
        return self.missed >= Self.looks ? finding : .there
    }

    var now: Finding {
        guard let first = self.first else { return .there }
        if let identity = Self.identity(self.path) { return identity == first ? .there : .replaced }
        // Whatever else keeps it from being looked at isn't its end.
        return errno == ENOENT ? .gone : .there
    }

    private static func identity(_ path: String) -> (device: UInt64, inode: UInt64)? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return (UInt64(status.st_dev), UInt64(status.st_ino))
    }
}
