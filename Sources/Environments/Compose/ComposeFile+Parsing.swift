import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

extension ComposeFile {
    /// Reads the file, and `.env` beside it for variables that the caller hasn't set.
    public static func read(
        path: String,
        environment: [String: String] = Spawn.ownEnvironment
    ) throws(EnvironmentError) -> ComposeFile {
        guard let text = try Self.readText(path) else {
            throw EnvironmentError(.file, "there is no \(path). Name a compose file with --file.")
        }
        let folder = SmallFile.parent(of: Self.absolutePath(of: path))
        var reader = ComposeReader(path: path, folder: folder, environment: environment)
        let defaults = try reader.readEnvironmentFile(reader.absolute(".env"), isRequired: false)
        return try Self.parse(text: text, path: path, environment: environment.merging(defaults) { own, _ in own })
    }

    /// - Parameters:
    ///   - path: as messages name it; relative to the current folder, or absolute.
    ///   - environment: the caller's.
    public static func parse(
        text: String,
        path: String,
        environment: [String: String]
    ) throws(EnvironmentError) -> ComposeFile {
        guard text.utf8.count <= Self.maxBytes else {
            throw EnvironmentError(.file, "\(path) is larger than 1 MiB. Name the file that is meant, or split it.")
        }
        let absolute = Self.absolutePath(of: path)
        let folder = SmallFile.parent(of: absolute)
        var reader = ComposeReader(path: path, folder: folder, environment: environment)
        do throws(Fault) {
            guard let root = try YAMLValue.load(text), !root.isNull else {
                throw Fault(
                    Position(line: 1, column: 1),
                    "the file is empty. Write 'services:' and at least one service."
                )
            }
            let (name, services) = try reader.document(root)
            try ComposeChecks(services: services).check()
            return ComposeFile(
                name: name ?? Self.defaultName(in: folder),
                path: absolute,
                services: services.map(\.service),
                warnings: reader.finish()
            )
        } catch {
            var failure = error.error(in: path)
            failure.warnings = reader.finish()
            throw failure
        }
    }

    /// The same for the same file, however it was named: links of folders are followed, one that is the file itself isn't,
    /// since what is relative in it is meant from where it stands.
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

    static func defaultName(in folder: String) -> String {
        let last = folder[(folder.lastIndex(of: "/").map { folder.index(after: $0) } ?? folder.startIndex)...]
        return ComposeReader.validName(from: String(last)) ?? "default"
    }
}
