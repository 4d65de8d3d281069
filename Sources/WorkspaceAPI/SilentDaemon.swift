import HostSupport
import InterceptModel
import Libc

/// A workspace daemon that runs but doesn't answer: it was stopped (SIGSTOP), or hangs. Only the user can decide whether to
/// end it.
public struct SilentDaemon: Error, Equatable, CustomStringConvertible, Sendable {
    /// Nil: the daemon doesn't even accept connections.
    public let pid: Int32?
    private let lock: String

    public init(pid: Int32?, home: WorkspaceHome) {
        self.pid = pid
        self.lock = home.daemonLock
    }

    /// As a clause.
    public var reason: String { "the workspace daemon\(self.pid.map { " (pid \($0))" } ?? "") doesn't answer" }

    /// The command that ends it. The next daemon finds its intercepts stored.
    public var mend: String { self.pid.map { "kill -9 \($0)" } ?? "fuser -k \"\(self.lock)\"" }

    public var description: String { "\(self.reason). End it with '\(self.mend)', then try again." }

    /// A connection to the daemon; nil: no daemon runs.
    static func client(_ home: WorkspaceHome, within milliseconds: Int) throws -> JSONLinesClient? {
        do throws(HostError) {
            return try JSONLinesClient(path: home.daemonSocket, within: milliseconds)
        } catch {
            if error.code == ETIMEDOUT { throw SilentDaemon(pid: nil, home: home) }
            throw Problem(.failed, "\(error)", "Look what is there, or name another folder by the variable KL_HOME.")
        }
    }
}
