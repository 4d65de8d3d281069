import Environments
import HostSupport
import InterceptModel
import Libc

/// The files that belong to a compose file and stand beside it: the override file, which is laid over it, and `.env`.
struct ComposeCompanions {
    /// In compose's own order of preference: if a folder has several, the first is used.
    static let fileNames = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"]
    static let overrideNames = [
        "compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml",
    ]

    private let file: String
    private let folder: String
    /// Absolute. Only the file that compose would choose by itself gets an override, not another file of the folder named
    /// by its path.
    let override: String?
    let warnings: [String]

    init(of path: String) {
        let file = ComposeFile.absolutePath(of: path)
        let folder = SmallFile.parent(of: file)
        let prefix = folder == "/" ? "/" : folder + "/"
        let files = Self.fileNames.map { prefix + $0 }.filter(ComposeFile.isFile)
        let overrides = Self.overrideNames.map { prefix + $0 }.filter(ComposeFile.isFile)
        let isFirst = files.first == file
        self.file = file
        self.folder = folder
        self.override = isFirst ? overrides.first : nil
        self.warnings =
            isFirst
            ? (files.dropFirst() + overrides.dropFirst()).map {
                "\($0) is ignored: \((overrides.contains($0) ? overrides.first : files.first) ?? file) comes before it"
            } : []
    }

    var defaults: String { self.folder == "/" ? "/.env" : self.folder + "/.env" }

    /// Nil also if the file can't be read.
    var overrideText: String? {
        guard let override, (try? self.check(override)) != nil else { return nil }
        return (try? ComposeFile.readText(override)) ?? nil
    }

    /// A user who names a compose file trusts the file's owner, but not other users who can write beside it: these
    /// companion files say what runs as the user. So their owner must be the user, root or the compose file's owner.
    func check(_ path: String) throws(Problem) {
        var link = stat()
        var target = stat()
        var own = stat()
        guard lstat(path, &link) == 0, stat(path, &target) == 0, stat(self.file, &own) == 0 else { return }
        let trusted = [geteuid(), 0, own.st_uid]
        guard let other = [link.st_uid, target.st_uid].first(where: { !trusted.contains($0) }),
            !FolderStatus.isShared(besideFile: self.file)
        else { return }
        throw Problem(
            .file,
            "\(path) belongs to user \(other), and it says what runs as you",
            "Take it away, or copy it so that it is yours."
        )
    }
}

extension ComposeReader {
    /// Reads `.env` for variables that the caller hasn't set, and warns of compose's own variables that have no effect
    /// here.
    mutating func readDefaults(_ companions: ComposeCompanions) throws(Problem) {
        let callers = self.interpolation.environment
        var defaults: [String: String] = [:]
        try companions.check(companions.defaults)
        try self.readEnvironmentFile(companions.defaults, false, names: callers, into: &defaults)
        self.interpolation.environment = defaults.merging(callers) { $1 }
        for name in Self.ignoredVariables where self.interpolation.environment[name]?.isEmpty == false {
            self.warn("the variable \(name) is ignored: it isn't in this version")
        }
    }

    private static let ignoredVariables = [
        "COMPOSE_DISABLE_ENV_FILE", "COMPOSE_ENV_FILES", "COMPOSE_FILE", "COMPOSE_PROFILES",
    ]
}
