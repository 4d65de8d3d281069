import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// `.kl/` beside a compose file: all that a local environment keeps.
///
/// It is its owner's alone (0700), unless the compose file's folder may be written by a group: then it is that group's (02770),
/// so that two developers of one machine meet there.
public struct StateFolder: Equatable, Sendable {
    public static let name = ".kl"

    public let path: String
    /// Whether the folder's group may use the environment.
    public let isShared: Bool

    init(path: String, isShared: Bool) {
        self.path = path
        self.isShared = isShared
    }

    public var folderMode: UInt32 { self.isShared ? 0o2770 : 0o700 }
    /// Of what is written into it, the socket too. `peers` is its owner's in any case.
    public var fileMode: UInt32 { self.isShared ? 0o660 : 0o600 }

    /// Held for each change of the record.
    public var lock: String { self.path + "/lock" }
    public var record: String { self.path + "/record.json" }
    /// Held by the supervisor for its life.
    public var supervisorLock: String { self.path + "/supervisor.lock" }
    public var supervisorSocket: String { self.path + "/supervisor.sock" }
    public var state: String { self.path + "/state.json" }
    public var peers: String { self.path + "/peers" }
    public var logs: String { self.path + "/logs" }
    public var supervisorLog: String { self.logs + "/supervisor.log" }
    public func log(ofService name: String) -> String { self.logs + "/\(name).log" }
    /// - Parameter name: the sidecar's: `api-server-1`.
    public func log(ofSidecar name: String) -> String { self.logs + "/\(name).sidecar.log" }
}
