import Libc

/// Notices that `.kl/` was moved or removed while the environment is up. Clients can't reach the supervisor then, so it has
/// to end its processes by itself.
struct FolderWatch {
    enum Finding {
        case there
        /// Nothing is in its place.
        case gone
        /// Another folder is in its place: nothing in it may be touched.
        case replaced
    }

    /// † Several looks, since a user who moves the folder may move it back.
    static let looks = 2

    private let path: String
    private let first: (device: UInt64, inode: UInt64)?
    private var missed = 0

    init(_ path: String) {
        self.path = path
        self.first = Self.identity(path)
    }

    /// Looks once. A folder counts as gone or replaced after `looks` such findings in a row.
    mutating func look() -> Finding {
        let finding = self.now
        self.missed = finding == .there ? 0 : self.missed + 1
        return self.missed >= Self.looks ? finding : .there
    }

    var now: Finding {
        guard let first = self.first else { return .there }
        if let identity = Self.identity(self.path) { return identity == first ? .there : .replaced }
        // Any other error (missing rights, say) doesn't mean that the folder is gone.
        return errno == ENOENT ? .gone : .there
    }

    private static func identity(_ path: String) -> (device: UInt64, inode: UInt64)? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return (UInt64(status.st_dev), UInt64(status.st_ino))
    }
}
