import HostSupport
import Libc
import Testing

@testable import Environments

/// A folder of the test's own, gone with it.
final class Room: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/kl-environments-XXXXXX".utf8CString)
        let made = mkdtemp(&template) != nil
        try #require(made)
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.path = ComposeFile.absolutePath(of: path + "/x").replacing("/x", with: "")
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

    static func names(in path: String) -> [String] {
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

    func callAsFunction(_ name: String) -> String { self.path + "/" + name }

    @discardableResult
    func file(_ name: String, _ text: String) throws -> String {
        try SmallFile.makeFolder(SmallFile.parent(of: self(name)))
        try SmallFile.replace(self(name), with: Array(text.utf8))
        return self(name)
    }
}

func mode(of path: String) throws -> UInt32 {
    var status = stat()
    try #require(lstat(path, &status) == 0)
    return UInt32(status.st_mode) & 0o7777
}

/// Of a file in a folder that isn't there, so that every path in it is known.
func parse(_ text: String, environment: [String: String] = [:]) throws(EnvironmentError) -> ComposeFile {
    try ComposeFile.parse(text: text, path: "/no/such/demo/compose.yaml", environment: environment)
}

/// Line, column and the rest of an error, or of a warning.
func withoutPath(_ text: String) -> String { text.replacing("/no/such/demo/compose.yaml:", with: "") }

func failure(_ text: String, environment: [String: String] = [:]) -> String? {
    do throws(EnvironmentError) {
        _ = try parse(text, environment: environment)
        return nil
    } catch {
        return error.code == .file ? withoutPath(error.description) : "\(error)"
    }
}
