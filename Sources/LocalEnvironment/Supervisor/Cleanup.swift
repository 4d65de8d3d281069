import Environments
import HostSupport
import InterceptModel
import Libc

/// Removes the files of an environment that has ended. Its members and its logs are kept.
enum Cleanup {
    /// Nil, or a sentence that says what couldn't be removed.
    static func remove(from folder: StateFolder) -> String? {
        var problem: String?
        do throws(Problem) { try Self.clearIntercepts(in: folder) } catch { problem = error.description }
        Self.removeHalfWritten(in: folder)
        for path in Self.paths(of: folder) {
            guard unlink(path) != 0, errno != ENOENT else { continue }
            problem = Problem(HostError("\(path) can't be removed", code: errno)).description
        }
        return problem
    }

    /// Whether there are files to remove: the environment is up, or wasn't ended properly.
    static func isNeeded(in folder: StateFolder) -> Bool { Self.paths(of: folder).contains { access($0, F_OK) == 0 } }

    private static func paths(of folder: StateFolder) -> [String] {
        [
            folder.state, folder.peers, folder.notificationSocket, folder.notificationName, folder.supervisorSocket,
        ]
    }

    /// Removes files that a process was writing when it was killed: NAME.PID.RANDOM (`SmallFile.replace`).
    static func removeHalfWritten(in folder: StateFolder) {
        guard let directory = opendir(folder.path) else { return }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if let pid = Self.writer(ofHalfWritten: name), ProcessIdentity(of: pid) == nil {
                unlink("\(folder.path)/\(name)")
            }
        }
    }

    static func writer(ofHalfWritten name: String) -> Int32? {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count > 2, UInt32(parts[parts.count - 1]) != nil, let pid = Int32(parts[parts.count - 2]), pid > 0,
            ["state.json", "peers", "notify", "record.json"].contains(parts.dropLast(2).joined(separator: "."))
        else { return nil }
        return pid
    }

    private static func clearIntercepts(in folder: StateFolder) throws(Problem) {
        let record = RecordFile(in: folder)
        for intercept in try record.read().intercepts {
            try record.release(service: intercept.service, publicKey: intercept.holder.publicKey)
        }
    }
}

extension StateFolder {
    /// The socket to which sidecars report.
    var notificationSocket: String { self.path + "/notify.sock" }
    /// If that path is too long for a socket's address, the socket has another name, which this file holds. The next
    /// supervisor reads it to listen where the sidecars that it adopts report.
    var notificationName: String { self.path + "/notify" }
}
