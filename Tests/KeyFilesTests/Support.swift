import Libc
import Noise
import Testing

typealias Bytes = [UInt8]

/// A directory of the test's own, gone with it.
final class Room: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/kl-key-files-XXXXXX".utf8CString)
        let made = mkdtemp(&template) != nil
        try #require(made)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        for name in names { _ = Self.removeItem(at: path + "/" + name) }
        _ = rmdir(path)
    }

    private static func removeItem(at path: String) -> Bool {
        unlink(path) == 0 || rmdir(path) == 0
    }

    func callAsFunction(_ name: String) -> String {
        path + "/" + name
    }

    var names: [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// Makes a file and returns its path.
    func file(_ name: String, _ text: String, mode: mode_t = 0o600) throws -> String {
        try file(name, Bytes(text.utf8), mode: mode)
    }

    func file(_ name: String, _ bytes: Bytes, mode: mode_t = 0o600) throws -> String {
        let descriptor = open(self(name), O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let written = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        try #require(written == bytes.count)
        try #require(fchmod(descriptor, mode) == 0)
        return self(name)
    }
}

func contents(of path: String) throws -> Bytes {
    let descriptor = open(path, O_RDONLY)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    var bytes = Bytes(repeating: 0, count: 100_000)
    let count = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    try #require(count >= 0)
    return Bytes(bytes.prefix(count))
}

func status(of path: String) throws -> stat {
    var status = stat()
    try #require(lstat(path, &status) == 0)
    return status
}
