import ComposeFiles
import Environments
import HostSupport
import InterceptModel
import Libc

/// Finds the environments that a user in this folder may mean: the compose files of the folder and of those above it, and
/// the environments used before. Reads files, and waits for the disk.
public enum LocalDiscovery {
    /// The nearest first, then those used before; each once.
    public static func find(
        from folder: String,
        known: [EnvironmentReference] = [],
        environment: [String: String] = Spawn.ownEnvironment
    ) -> [FoundEnvironment] {
        let near = ComposeFile.files(from: folder).map { (path: $0, name: nil as String?) }
        let others = known.filter { $0.kind == .local }.map { (path: $0.location, name: $0.name as String?) }
        let chosen = Set(others.map(\.path))
        var seen: Set<String> = []
        // COMPOSE_PROJECT_NAME applies to the nearest file only; otherwise all would have the same name.
        let elsewhere = environment.filter { $0.key != ComposeReader.nameVariable }
        return (near + others).compactMap { path, name in
            guard seen.insert(path).inserted else { return nil }
            if !chosen.contains(path), let refusal = Self.refusal(of: path) {
                let name = ComposeFile.defaultName(in: SmallFile.parent(of: path))
                return FoundEnvironment(Self.reference(path, name), .broken, reason: refusal.description)
            }
            return Self.look(at: path, name: name, environment: path == near.first?.path ? environment : elsewhere)
        }
    }

    /// Why a file that the user hasn't named isn't used: it belongs to another user, and its commands would run as this
    /// one. Any user can put a file into /tmp, above the folder in which this user works.
    ///
    /// - Returns: nil if the file belongs to this user or root, or lies in a folder shared with a group of this user's.
    public static func refusal(of path: String) -> Problem? {
        var link = stat()
        var file = stat()
        guard lstat(path, &link) == 0, stat(path, &file) == 0 else { return nil }
        let own = [geteuid(), 0]
        guard let other = [link.st_uid, file.st_uid].first(where: { !own.contains($0) }),
            !FolderStatus.isShared(besideFile: path)
        else { return nil }
        return Problem(
            .file,
            "\(path) belongs to user \(other), and its commands would run as you",
            "If you trust them, name it:" + " --file \(path.shellQuoted)"
        )
    }

    /// The environment of this compose file.
    /// - Parameter name: its name if the file doesn't give one.
    public static func look(
        at path: String,
        name: String? = nil,
        environment: [String: String] = Spawn.ownEnvironment
    ) -> FoundEnvironment {
        let path = ComposeFile.absolutePath(of: path)
        do throws(Problem) {
            // A running environment is up, whatever its file says by now.
            if let folder = try StateFolder.open(besideFile: path), let state = try EnvironmentState.read(from: folder),
                state.file == path, state.isAlive
            {
                return FoundEnvironment(Self.reference(path, state.name), .up)
            }
            let file = try ComposeFile.read(path: path, environment: environment)
            return FoundEnvironment(Self.reference(path, file.name), .down)
        } catch {
            let name =
                ComposeFile.name(path: path, environment: environment) ?? name
                ?? ComposeFile.defaultName(in: SmallFile.parent(of: path))
            return FoundEnvironment(
                Self.reference(path, name),
                .broken,
                reason: error.description,
                isGone: !ComposeFile.isFile(path)
            )
        }
    }

    private static func reference(_ path: String, _ name: String) -> EnvironmentReference {
        EnvironmentReference(kind: .local, name: name, location: path)
    }
}
