import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The workspace daemon is there and says nothing: it was stopped, or it hangs. Only a person can tell whether it may be ended.
public struct SilentDaemon: Error, Equatable, CustomStringConvertible, Sendable {
    /// Nil: it doesn't even let anybody in.
    public let pid: Int32?
    private let lock: String

    public init(pid: Int32?, home: WorkspaceHome) {
        self.pid = pid
        self.lock = home.daemonLock
    }

    /// A clause.
    public var reason: String { "the workspace daemon\(self.pid.map { " (pid \($0))" } ?? "") doesn't answer" }

    /// The command that ends it. What it holds is known to the next one.
    public var mend: String { self.pid.map { "kill -9 \($0)" } ?? "fuser -k \"\(self.lock)\"" }

    public var description: String { "\(self.reason). End it with '\(self.mend)', then try again." }

    /// A connection to the daemon; nil: none runs.
    static func client(_ home: WorkspaceHome, within milliseconds: Int) throws -> JSONLinesClient? {
        do throws(HostError) {
            return try JSONLinesClient(path: home.daemonSocket, within: milliseconds)
        } catch {
            throw error.code == ETIMEDOUT ? SilentDaemon(pid: nil, home: home) as any Error : error
        }
    }
}
