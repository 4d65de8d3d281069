import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Where a workspace keeps what it knows: its key, its environment, its daemon.
///
/// `KL_HOME` holds all of it. Without that, the XDG base directories do: configuration in one, what changes in another.
public struct WorkspaceHome: Hashable, Sendable {
    /// The key, and which environment is connected.
    public let configuration: String
    /// The daemon's.
    public let state: String
    /// By `KL_HOME`, and not where a user's home is by default.
    private let isNamed: Bool

    public var privateKey: String { "\(self.configuration)/private.key" }
    public var connected: String { "\(self.configuration)/connected.json" }
    public var environments: String { "\(self.configuration)/environments.json" }
    public var daemonLock: String { "\(self.state)/daemon.lock" }
    public var daemonSocket: String { "\(self.state)/daemon.sock" }
    public var daemonLog: String { "\(self.state)/daemon.log" }
    /// Of the daemon's log, and once more of its end in `daemon.log.1`.
    static let logAtMost: Int64 = 1_048_576
    public var intercepts: String { "\(self.state)/intercepts.json" }
    /// The last timestamps that the key has sent: a file for each sidecar.
    var timestamps: String { "\(self.state)/timestamps" }

    /// As the environment's variables have it. Nothing is made yet.
    public init(variables: [String: String] = Spawn.ownEnvironment) throws(WorkspaceError) {
        func folder(_ name: String) -> String? {
            // The specification of XDG: a path that isn't absolute is to be ignored.
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
            throw WorkspaceError("this user has no home folder. Name a folder of your own by the variable KL_HOME.")
        }
        self.configuration = Self.withoutTrailingSlashes(configuration) + "/kl"
        self.state = Self.withoutTrailingSlashes(state) + "/kl"
        self.isNamed = false
    }

    /// All in one folder.
    public init(folder: String) {
        self.configuration = folder
        self.state = folder
        self.isNamed = true
    }

    private var folders: [String] {
        self.configuration == self.state ? [self.state] : [self.configuration, self.state]
    }

    /// The folders are there, and are this user's alone. For commands that write there; those that only read `check()`.
    public func prepare() throws(WorkspaceError) {
        for folder in self.folders {
            if let refusal = self.refusal(toMake: folder) { throw refusal }
            do {
                try SmallFile.makeFolder(folder)
            } catch {
                throw WorkspaceError("\(error). Name another folder by the variable KL_HOME.")
            }
            try Self.checkFolder(folder)
        }
    }

    /// The same, and something can be written there: before what is done can't be written down.
    public func prepareToWrite() throws(WorkspaceError) {
        try self.prepare()
        for folder in self.folders where access(folder, W_OK) != 0 {
            throw WorkspaceError(
                """
                \(HostError("'\(folder)' can't be written", code: errno)). Make it writable, or name another folder by the \
                variable KL_HOME.
                """
            )
        }
    }

    /// As far as they are there, the folders are this user's alone. What lies in them decides where traffic goes. Nothing is
    /// made, so that a command that only reads leaves nothing behind, and works where nothing can be written.
    public func check() throws(WorkspaceError) {
        for folder in self.folders {
            // Below what is no folder there is none either.
            if access(folder, F_OK) != 0, errno == ENOENT || errno == ENOTDIR { continue }
            try Self.checkFolder(folder)
        }
    }

    /// Why a folder that lacks isn't made: `sudo` may keep the user's HOME, and what root made there that user couldn't use
    /// afterwards. Nil: it is there, or may be made.
    public func refusal(toMake folder: String) -> WorkspaceError? {
        guard !self.isNamed, geteuid() == 0 else { return nil }
        var (above, status) = (folder, stat())
        while stat(above, &status) != 0 {
            guard errno == ENOENT, above != "/" else { return nil }
            above = SmallFile.parent(of: above)
        }
        guard above != folder, status.st_uid != 0 else { return nil }
        return WorkspaceError(
            """
            '\(above)' belongs to user \(status.st_uid), and kl runs as root, whose files that user couldn't use. Run kl \
            without sudo, or name a folder of root's by the variable KL_HOME.
            """
        )
    }

    private static func checkFolder(_ folder: String) throws(WorkspaceError) {
        var status = stat()
        guard stat(folder, &status) == 0 else {
            throw WorkspaceError("\(HostError("'\(folder)' can't be looked at", code: errno)). Check the path.")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw WorkspaceError("'\(folder)' isn't a folder. Remove it, or name another by the variable KL_HOME.")
        }
        guard status.st_uid == geteuid() else {
            throw WorkspaceError(
                "'\(folder)' belongs to user \(status.st_uid). Name a folder of your own by the variable KL_HOME."
            )
        }
        guard status.st_mode & 0o077 == 0 else {
            let mode = String(status.st_mode & 0o7777, radix: 8)
            throw WorkspaceError("'\(folder)' is open to other users (mode 0\(mode)). Close it with 'chmod 700'.")
        }
    }

    /// The variables that make a child see the same home, whatever its working directory.
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

/// What is wrong with this workspace, in one sentence, and what to do in another.
public struct WorkspaceError: Error, Equatable, CustomStringConvertible, Sendable {
    public let description: String

    public init(_ description: String) { self.description = description }
}
