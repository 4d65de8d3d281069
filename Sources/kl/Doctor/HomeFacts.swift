import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import KeyFiles
import Libc
import WorkspaceAPI

/// This workspace's folders and their content.
struct HomeFacts {
    /// Nil: there is none; `problem` says why.
    var home: WorkspaceHome?
    var problem: Problem?
    /// Whether a folder is still missing and will be made.
    var isNew = false
    /// Bytes that can still be written there; nil: not known.
    var room: UInt64?
    var key = Key.none

    enum Key: Equatable {
        case none
        case good(publicKey: String)
        case refused(Problem)
    }

    /// The longest path in a socket's address (unix(7)).
    private static let addressBytes = 107
    private static let leastRoom: UInt64 = 1_048_576

    var checks: [Check] {
        guard let home = self.home, self.problem == nil else {
            let none = Problem(.failed, "this user has no home folder", "Name one by the variable KL_HOME.")
            return [.failed("home", self.problem ?? none)]
        }
        return [self.folders(home), self.keyCheck(home), self.socket(home)]
    }

    private func folders(_ home: WorkspaceHome) -> Check {
        let folders = home.configuration == home.state ? home.state : "\(home.configuration) and \(home.state)"
        if let room = self.room, room < Self.leastRoom {
            return .failed("home", "there is no room on the disk of \(home.state)", "Make room there.")
        }
        return .ok("home", self.isNew ? "\(folders), made when first needed" : "\(folders), yours alone")
    }

    private func keyCheck(_ home: WorkspaceHome) -> Check {
        switch self.key {
        case .none: .ok("key", "none yet: made when first needed")
        case .good(let publicKey): .ok("key", "\(home.privateKey), public key \(publicKey.abbreviatedKey)")
        case .refused(let problem): .failed("key", problem)
        }
    }

    private func socket(_ home: WorkspaceHome) -> Check {
        let count = home.daemonSocket.utf8.count
        return .ok(
            "socket",
            count <= Self.addressBytes
                ? home.daemonSocket : "\(home.daemonSocket) (\(count) bytes are too many for an address: by its folder)"
        )
    }

    /// The environment that this workspace is connected to, as far as its file can be read.
    var connected: EnvironmentReference? {
        guard let home = self.home, self.problem == nil, let bytes = (try? SmallFile.read(home.connected)) ?? nil else {
            return nil
        }
        return try? JSONDecoder().decode(EnvironmentReference.self, from: Data(bytes))
    }

    /// The files that `kl` writes there.
    var files: [String] {
        self.home.map { [$0.privateKey, $0.connected, $0.environments, $0.intercepts, $0.daemonLog] } ?? []
    }
}

extension HomeFacts {
    /// The facts of this machine.
    static var here: HomeFacts {
        var facts = HomeFacts()
        do throws(Problem) {
            let home = try WorkspaceHome()
            facts.home = home
            let lacking = [home.configuration, home.state].filter { !Self.isThere($0) }
            facts.isNew = !lacking.isEmpty
            if let folder = lacking.first {
                facts.problem = home.refusal(toMake: folder) ?? Self.problem(toMake: folder)
            }
            try home.check()
            facts.room = Self.room(above: home.state)
            if Self.isThere(home.privateKey) { facts.key = Self.key(home.privateKey) }
        } catch {
            facts.problem = error
        }
        return facts
    }

    /// Also true if the path can't be looked at: using it will say why.
    private static func isThere(_ path: String) -> Bool {
        access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR)
    }

    /// Why the folder couldn't be made; nil if it could. Nothing is made here.
    private static func problem(toMake folder: String) -> Problem? {
        let above = Self.existing(above: folder)
        guard access(above, W_OK | X_OK) != 0 else { return nil }
        let error = HostError("\(folder) can't be made", code: errno)
        return Problem(.failed, "\(error)", "Name another folder by the variable KL_HOME.")
    }

    private static func existing(above path: String) -> String {
        var path = path
        while path != "/", access(path, F_OK) != 0 { path = SmallFile.parent(of: path) }
        return path
    }

    private static func room(above path: String) -> UInt64? {
        var status = statvfs()
        // Some file systems aren't on a disk and report no blocks.
        guard statvfs(Self.existing(above: path), &status) == 0, status.f_blocks > 0 else { return nil }
        return UInt64(status.f_bavail) &* UInt64(status.f_frsize)
    }

    private static func key(_ path: String) -> Key {
        do throws(KeyFileError) {
            return .good(publicKey: try KeyFile.readPrivateKey(at: path).publicKey.base64)
        } catch {
            return .refused(Problem(.failed, error.what, error.remedy))
        }
    }
}

/// The daemon of this workspace.
struct DaemonFacts {
    enum Daemon: Equatable {
        case none
        case runs(version: String)
        case silent(SilentDaemon)
        case failed(Problem)
    }

    var daemon: Daemon
    var expected = Version.number

    var checks: [Check] {
        switch self.daemon {
        case .none: [.ok("daemon", "doesn't run: it starts by itself")]
        case .runs(self.expected): [.ok("daemon", "answers, of this version")]
        case .runs(let version):
            [
                .warning(
                    "daemon",
                    "answers, and is of version \(version), not \(self.expected)",
                    "The next kl intercept command replaces it, and its intercepts go on."
                )
            ]
        case .silent(let silent): [.failed("daemon", silent.reason, "End it with '\(silent.mend)'.")]
        case .failed(let problem): [.failed("daemon", problem)]
        }
    }

    /// The state of this home's daemon.
    static func of(_ home: WorkspaceHome?) -> DaemonFacts {
        guard let home else { return DaemonFacts(daemon: .none) }
        do {
            let running = try DaemonStarter.running(home: home, within: Workspace.listPatience)
            return DaemonFacts(daemon: running.map { .runs(version: $0.version) } ?? .none)
        } catch let error as SilentDaemon {
            return DaemonFacts(daemon: .silent(error))
        } catch {
            let problem = error as? Problem ?? Problem(.failed, "\(error)", "Look what is there.")
            return DaemonFacts(daemon: .failed(problem))
        }
    }
}
