import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Which process has a port, as far as this user may know.
enum PortOwner {
    /// `python3 (pid 4711)`, or nil.
    static func describe(_ port: UInt16) -> String? {
        let sockets = Self.listening(on: port)
        guard !sockets.isEmpty else { return nil }
        for pid in RunningProcesses.numbers where Self.has(pid, anyOf: sockets) {
            return "\(RunningProcesses.name(of: pid) ?? "a process") (pid \(pid))"
        }
        return nil
    }

    /// The listening sockets' inodes, as links of /proc/PID/fd show them.
    static func listening(on port: UInt16) -> Set<String> {
        var result: Set<String> = []
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            guard let bytes = try? SmallFile.read(table, atMost: 64 * 1_048_576) else { continue }
            for line in bytes.split(separator: UInt8(ascii: "\n")).dropFirst() {
                if let inode = Self.inode(in: String(decoding: line, as: UTF8.self), listeningOn: port) {
                    result.insert("socket:[\(inode)]")
                }
            }
        }
        return result
    }

    /// proc_pid_net(5): number, local address, remote address, state (0A is listening), …; the tenth is the inode.
    static func inode(in line: String, listeningOn port: UInt16) -> String? {
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        guard fields.count > 9, fields[3] == "0A", let colon = fields[1].lastIndex(of: ":"),
            UInt16(fields[1][fields[1].index(after: colon)...], radix: 16) == port
        else { return nil }
        return String(fields[9])
    }

    private static func has(_ pid: Int32, anyOf sockets: Set<String>) -> Bool {
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
