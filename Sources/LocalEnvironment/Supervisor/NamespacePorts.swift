import HostSupport
import Libc

/// Finds out whether a service listens in a network namespace that isn't this process's own.
struct NamespacePorts {
    /// The namespace's path.
    let path: String
    /// The service's process group.
    let group: Int32

    /// The group's leader may be outside of the namespace, and only a child of it inside.
    func isListened(on port: UInt16) -> Bool {
        guard let namespace = Self.file(self.path) else { return false }
        let pids = [self.group] + RunningProcesses.inGroup(self.group).map(\.pid)
        guard let inside = pids.first(where: { Self.file("/proc/\($0)/ns/net") == namespace }) else { return false }
        return !PortOwner.listening(on: port, of: inside).isEmpty
    }

    private struct File: Equatable {
        var device: UInt64
        var number: UInt64
    }

    private static func file(_ path: String) -> File? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return File(device: UInt64(status.st_dev), number: UInt64(status.st_ino))
    }
}
