import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// What an environment that has ended doesn't leave behind. Its members stay known, and its logs.
enum Cleanup {
    /// A sentence if something stays.
    static func remove(from folder: StateFolder) -> String? {
        var problem: String?
        do throws(EnvironmentError) { try Self.clearIntercepts(in: folder) } catch { problem = error.description }
        for path in [folder.state, folder.peers, folder.notificationName, folder.supervisorSocket] {
            guard unlink(path) != 0, errno != ENOENT else { continue }
            problem = EnvironmentError(HostError("\(path) can't be removed", code: errno)).description
        }
        return problem
    }

    private static func clearIntercepts(in folder: StateFolder) throws(EnvironmentError) {
        let record = RecordFile(in: folder)
        for intercept in try record.read().intercepts {
            try record.release(service: intercept.service, publicKey: intercept.holder.publicKey)
        }
    }
}

extension StateFolder {
    /// Holds the name of the socket to which sidecars report, so that the next supervisor finds those that it adopts.
    var notificationName: String { self.path + "/notify" }
}
