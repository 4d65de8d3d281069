import HostSupport
public import InterceptModel
import Libc

/// Where a workspace stores its key, its environments and its daemon's files.
///
/// `KL_HOME` is one folder for everything. Without it the XDG base directories are used: one for configuration, another for
/// state.
public struct WorkspaceHome: Hashable, Sendable {
    /// The folder of the key, and of the environments that are connected and known.
    public let configuration: String
    /// The folder of the daemon's files.
    public let state: String
    /// Whether the folder was named, by `KL_HOME` or by the caller, rather than found by default.
    private let isNamed: Bool

    public var privateKey: String { "\(self.configuration)/private.key" }
    public var connected: String { "\(self.configuration)/connected.json" }
    public var environments: String { "\(self.configuration)/environments.json" }
    public var daemonLock: String { "\(self.state)/daemon.lock" }
    public var daemonSocket: String { "\(self.state)/daemon.sock" }
    public var daemonLog: String { "\(self.state)/daemon.log" }
    /// For the daemon's log, and the same again for its older part, `daemon.log.1`.
    package static let logAtMost: Int64 = 1_048_576
    public var intercepts: String { "\(self.state)/intercepts.json" }
    /// The last timestamps sent with the key: a folder with a file for each sidecar.
    var timestamps: String { "\(self.state)/timestamps" }

    /// From environment variables. No folder is made yet.
    public init(variables: [String: String] = Spawn.ownEnvironment) throws(Problem) {
        func folder(_ name: String) -> String? {
            // The XDG specification: a path that isn't absolute must be ignored.
            variables[name].flatMap { $0.hasPrefix("/") ? $0 : nil }
        }
        if let home = variables["KL_HOME"], !home.isEmpty {
            let whole = Self.withoutTrailingSlashes(home.hasPrefix("/") ? home : "\(Self.workingDirectory)/\(home)")
            self.configuration = whole
            self.state = whole
            self.isNamed = true
            return
        }
        let home = folder("HOME") ?? Self.homeOfUser
        guard let configuration = folder("XDG_CONFIG_HOME") ?? home.map({ "\($0)/.config" }),
            let state = folder("XDG_STATE_HOME") ?? home.map({ "\($0)/.local/state" })
        else {
            throw Problem(.failed, "this user has no home folder", "Name a folder of your own by the variable KL_HOME.")
        }
        self.configuration = Self.withoutTrailingSlashes(configuration) + "/kl"
        self.state = Self.withoutTrailingSlashes(state) + "/kl"
        self.isNamed = false
    }

    /// Everything in one folder.
    public init(folder: String) {
        self.configuration = folder
        self.state = folder
        self.isNamed = true
    }

    private var folders: [String] {
        self.configuration == self.state ? [self.state] : [self.configuration, self.state]
    }

    /// Makes the folders if they don't exist, and checks that only this user may use them. For commands that write there;
    /// others call `check()`.
    public func prepare() throws(Problem) {
        for folder in self.folders {
            if let refusal = self.refusal(toMake: folder) { throw refusal }
            do {
                try SmallFile.makeFolder(folder)
            } catch {
                throw Problem(.failed, "\(error)", "Name another folder by the variable KL_HOME.")
            }
            try Self.checkFolder(folder)
        }
    }

    /// The same, and checks that the folders can be written, so that a command fails before it has done something that it
    /// can't record.
    public func prepareToWrite() throws(Problem) {
        try self.prepare()
        for folder in self.folders where access(folder, W_OK) != 0 {
            throw Problem(
                .failed,
                "\(HostError("'\(folder)' can't be written", code: errno))",
                "Make it writable, or name another folder by the variable KL_HOME."
            )
        }
    }

    /// Checks that the folders, if they exist, are this user's only: their content decides where traffic goes. Nothing is
    /// made, so a command that only reads leaves nothing behind, and works even if nothing can be written.
    public func check() throws(Problem) {
        for folder in self.folders {
            // ENOTDIR: a part of the path isn't a folder, so the folder doesn't exist either.
            if access(folder, F_OK) != 0, errno == ENOENT || errno == ENOTDIR { continue }
            try Self.checkFolder(folder)
        }
    }

    /// Why a missing folder isn't made: `sudo` may keep the user's HOME, and that user couldn't use what root makes there.
    /// Nil: the folder exists, or may be made.
    public func refusal(toMake folder: String) -> Problem? {
        guard !self.isNamed, geteuid() == 0 else { return nil }
        var (above, status) = (folder, stat())
        while stat(above, &status) != 0 {
            guard errno == ENOENT, above != "/" else { return nil }
            above = SmallFile.parent(of: above)
        }
        guard above != folder, status.st_uid != 0 else { return nil }
        return Problem(
            .failed,
            "'\(above)' belongs to user \(status.st_uid), and kl runs as root, whose files that user couldn't use",
            "Run kl without sudo, or name a folder of root's by the variable KL_HOME."
        )
    }

    private static func checkFolder(_ folder: String) throws(Problem) {
        var status = stat()
        guard stat(folder, &status) == 0 else {
            throw Problem(.failed, "\(HostError("'\(folder)' can't be looked at", code: errno))", "Check the path.")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw Problem(.failed, "'\(folder)' isn't a folder", "Remove it, or name another by the variable KL_HOME.")
        }
        guard status.st_uid == geteuid() else {
            throw Problem(
                .failed,
                "'\(folder)' belongs to user \(status.st_uid)",
                "Name a folder of your own by the variable KL_HOME."
            )
        }
        guard status.st_mode & 0o077 == 0 else {
            let mode = String(status.st_mode & 0o7777, radix: 8)
            throw Problem(.failed, "'\(folder)' is open to other users (mode 0\(mode))", "Close it with 'chmod 700'.")
        }
    }

    /// Variables that give a child process the same home, whatever its working directory.
    var variables: [String: String] {
        var variables = Spawn.ownEnvironment
        if self.configuration == self.state { variables["KL_HOME"] = self.state }
        return variables
    }

    private static func withoutTrailingSlashes(_ path: String) -> String {
        var path = path[...]
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return String(path)
    }

    private static var workingDirectory: String {
        guard let path = getcwd(nil, 0) else { return "." }
        defer { free(path) }
        return String(cString: path)
    }

    private static var homeOfUser: String? {
        getpwuid(getuid()).flatMap { $0.pointee.pw_dir }.map { String(cString: $0) }
    }
}
