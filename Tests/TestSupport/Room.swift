import HostSupport
import Libc
import Testing

/// A folder of the test's own, gone with it.
package final class Room: Sendable {
    package let path: String

    package init() throws {
        var template = Array("/tmp/kl-environments-XXXXXX".utf8CString)
        let made = mkdtemp(&template) != nil
        try #require(made)
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // As a path without links, which a folder for temporary files may be.
        let resolved = try #require(realpath(path, nil))
        defer { free(resolved) }
        self.path = String(cString: resolved)
    }

    deinit { Self.remove(self.path) }

    private static func remove(_ path: String) {
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        guard UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFDIR) else {
            unlink(path)
            return
        }
        for name in Self.names(in: path) { Self.remove(path + "/" + name) }
        rmdir(path)
    }

    package static func names(in path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    package func callAsFunction(_ name: String) -> String { self.path + "/" + name }

    @discardableResult
    package func file(_ name: String, _ text: String) throws -> String {
        try SmallFile.makeFolder(SmallFile.parent(of: self(name)))
        try SmallFile.replace(self(name), with: Array(text.utf8))
        return self(name)
    }
}

package func mode(of path: String) throws -> UInt32 {
    var status = stat()
    try #require(lstat(path, &status) == 0)
    return UInt32(status.st_mode) & 0o7777
}
