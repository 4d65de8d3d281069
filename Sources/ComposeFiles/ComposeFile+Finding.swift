import Environments
import HostSupport
import InterceptModel
import Libc

/// Where compose files are, and how their paths are written.
extension ComposeFile {
    /// † How many levels are searched upwards.
    private static let maxFolders = 64

    /// The compose files of a folder and of those above it, absolute, the nearest first.
    public static func files(from folder: String) -> [String] {
        var result: [String] = []
        var folder = SmallFile.parent(of: Self.absolutePath(of: folder + "/."))
        for _ in 0..<Self.maxFolders {
            let prefix = folder == "/" ? "/" : folder + "/"
            if let name = ComposeCompanions.fileNames.first(where: { Self.isFile(prefix + $0) }) {
                result.append(prefix + name)
            }
            guard folder != "/" else { break }
            folder = SmallFile.parent(of: folder)
        }
        return result
    }

    /// The name of the override file beside a compose file, if there is one.
    public static func overrideName(of path: String) -> String? {
        ComposeCompanions(of: path).override?.split(separator: "/").last.map(String.init)
    }

    /// The same path for the same file, however it was named. Links to folders are resolved; a link that is the file itself
    /// isn't, since relative paths in the file start at the link's folder.
    public static func absolutePath(of path: String) -> String {
        let folder = SmallFile.parent(of: path)
        let name = path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...]
        var real = folder
        if let resolved = realpath(folder, nil) {
            real = String(cString: resolved)
            free(resolved)
        }
        return real == "/" ? "/\(name)" : "\(real)/\(name)"
    }

    package static func defaultName(in folder: String) -> String {
        let last = folder[(folder.lastIndex(of: "/").map { folder.index(after: $0) } ?? folder.startIndex)...]
        return ComposeReader.validName(from: String(last)) ?? "default"
    }

    package static func isFile(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFREG)
    }

    static let maxBytes = 1_048_576

    /// Nil: there is no such file.
    static func readText(_ path: String) throws(Problem) -> String? {
        var status = stat()
        if stat(path, &status) == 0, UInt32(status.st_mode) & UInt32(S_IFMT) != UInt32(S_IFREG) {
            // Reading a pipe would block.
            throw Problem(.file, "\(path) isn't a file", "Name the file that is meant.")
        }
        let bytes: [UInt8]?
        do throws(HostError) {
            bytes = try SmallFile.read(path, atMost: Self.maxBytes)
        } catch {
            if error.code == EFBIG {
                throw Problem(.file, "\(path) is larger than 1 MiB", "Name the file that is meant, or split it.")
            }
            throw Problem(.file, "\(error.description)", "Name a file that you may read.")
        }
        guard let bytes else { return nil }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw Problem(.file, "\(path) isn't UTF-8 text", "Save it as UTF-8.")
        }
        return text
    }
}
