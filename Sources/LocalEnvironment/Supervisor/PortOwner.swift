import ComposeFiles
import Environments
import HostSupport
import InterceptModel
import Libc

/// Finds the process that has a port, as far as this user may see it.
enum PortOwner {
    /// `python3 (pid 4711)`, or nil.
    static func describe(_ port: UInt16) -> String? {
        Self.find(Self.listening(on: port)).map(Self.text)
    }

    /// The first process that has one of these sockets; nil if they belong to other users' processes, which only those
    /// users and root can see.
    static func find(_ sockets: Set<String>) -> Int32? {
        sockets.isEmpty ? nil : RunningProcesses.numbers.first { Self.has($0, anyOf: sockets) }
    }

    static func text(_ pid: Int32) -> String { "\(RunningProcesses.name(of: pid) ?? "a process") (pid \(pid))" }

    /// The inodes of the listening sockets, as links of /proc/PID/fd show them.
    ///
    /// - Parameter process: a process whose network namespace is meant; nil: this process's own.
    static func listening(on port: UInt16, of process: Int32? = nil) -> Set<String> {
        var result: Set<String> = []
        let folder = process.map { "/proc/\($0)/net" } ?? "/proc/net"
        for table in ["\(folder)/tcp", "\(folder)/tcp6"] {
            for line in Self.listeners(in: table) {
                if let inode = Self.inode(in: line, listeningOn: port) { result.insert("socket:[\(inode)]") }
            }
        }
        return result
    }

    /// The table's first lines, which are the listening sockets. To read the rest, the other sockets, can take
    /// milliseconds, and with many services this is done often.
    private static func listeners(in table: String) -> [String] {
        let descriptor = open(table, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var result: [String] = []
        var rest: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16_384)
        var isHeader = true
        while true {
            let count = read(descriptor, &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return result }
            rest += piece[..<count]
            while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: rest[..<end], as: UTF8.self)
                rest.removeSubrange(...end)
                if isHeader {
                    isHeader = false
                } else if line.split(separator: " ", maxSplits: 4).dropFirst(3).first == "0A" {
                    result.append(line)
                } else {
                    return result
                }
            }
        }
    }

    /// proc_pid_net(5): number, local address, remote address, state (0A is listening), …; the tenth field is the inode.
    static func inode(in line: String, listeningOn port: UInt16) -> String? {
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        guard fields.count > 9, fields[3] == "0A", let colon = fields[1].lastIndex(of: ":"),
            UInt16(fields[1][fields[1].index(after: colon)...], radix: 16) == port
        else { return nil }
        return String(fields[9])
    }

    static func has(_ pid: Int32, anyOf sockets: Set<String>) -> Bool {
        let path = "/proc/\(pid)/fd"
        guard let folder = opendir(path) else { return false }
        defer { closedir(folder) }
        while let entry = readdir(folder) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var target = [CChar](repeating: 0, count: 128)
            let count = readlink("\(path)/\(name)", &target, 127)
            guard count > 0 else { continue }
            if sockets.contains(String(decoding: target[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)) {
                return true
            }
        }
        return false
    }
}

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

extension Problem {
    /// The error for a public port that can't be opened.
    static func port(_ port: ComposePort, of service: String, _ error: HostError) -> Problem {
        let what = "port \(port.publishedPort) of service '\(service)' can't be opened on \(port.hostAddress)"
        switch error.code {
        case EADDRINUSE:
            let holder = port.transport == .tcp ? PortOwner.describe(port.published) : nil
            let owner = holder.map { "\($0) has it" } ?? "another process has it"
            return Problem(
                .failed,
                "\(what): \(owner)",
                "Stop that, or publish another port in the compose file."
            )
        case EADDRNOTAVAIL:
            return Problem(
                .failed,
                "\(what): that isn't an address of this machine",
                "Name another one in the compose file, or none."
            )
        case EACCES:
            return Problem(
                .failed,
                "\(what): only root may have ports below 1024",
                "Publish a higher one in the compose file."
            )
        default: return Problem(HostError(what, code: error.code))
        }
    }
}
