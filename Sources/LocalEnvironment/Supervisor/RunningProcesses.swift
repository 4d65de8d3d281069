import HostSupport
import Libc

/// This machine's processes, as /proc lists them.
enum RunningProcesses {
    /// The processes of a group that haven't ended.
    static func inGroup(_ group: Int32) -> [ProcessIdentity] {
        Self.numbers.filter { Self.group(of: $0) == group }.compactMap { ProcessIdentity(of: $0) }
    }

    /// The processes whose initial environment has this variable with a value that begins so, and the rest of the value.
    /// Descendants inherit it, also those that left their process group. Not found: this process, other users' processes,
    /// and programs that overwrite their environment.
    static func withEnvironment(_ name: String, prefix: String) -> [(process: ProcessIdentity, rest: String)] {
        let start = Array("\(name)=\(prefix)".utf8)
        return Self.numbers.compactMap { pid in
            guard pid != getpid(),
                let bytes = try? SmallFile.read("/proc/\(pid)/environ", atMost: 4 * 1_048_576),
                let entry = bytes.split(separator: 0).first(where: { $0.starts(with: start) }),
                let process = ProcessIdentity(of: pid)
            else { return nil }
            return (process, String(decoding: entry.dropFirst(start.count), as: UTF8.self))
        }
    }

    /// The program's name; nil if there is no such process.
    static func name(of pid: Int32) -> String? {
        guard let bytes = try? SmallFile.read("/proc/\(pid)/comm") else { return nil }
        return String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    static var numbers: [Int32] {
        guard let folder = opendir("/proc") else { return [] }
        defer { closedir(folder) }
        var result: [Int32] = []
        while let entry = readdir(folder) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if let number = Int32(name) { result.append(number) }
        }
        return result
    }

    /// proc(5), stat, field 5.
    private static func group(of pid: Int32) -> Int32? {
        guard let bytes = try? SmallFile.read("/proc/\(pid)/stat"),
            let end = bytes.lastIndex(of: UInt8(ascii: ")"))
        else { return nil }
        let fields = bytes[(end + 1)...].split(separator: UInt8(ascii: " "))
        return fields.count > 2 ? Int32(String(decoding: fields[2], as: UTF8.self)) : nil
    }
}

/// A variable in the environment of each of an environment's processes: which environment it belongs to, and its role.
///
/// `state.json` lacks a process that was started just when the supervisor was killed, and processes that a service left
/// outside of its group; they are found by this mark.
struct SupervisorMark {
    static let variable = "KL_SUPERVISED"

    enum Role: Hashable {
        case service(String)
        case sidecar(String)

        var text: String {
            switch self {
            case .service(let name): "service:\(name)"
            case .sidecar(let name): "sidecar:\(name)"
            }
        }
    }

    let folder: String

    func value(for role: Role) -> String { "\(self.folder):\(role.text)" }

    /// All marked processes, except those with these roles.
    func processes(except roles: Set<Role> = []) -> [ProcessIdentity] {
        let kept = Set(roles.map(\.text))
        return RunningProcesses.withEnvironment(Self.variable, prefix: "\(self.folder):")
            .filter { !kept.contains($0.rest) }
            .map(\.process)
    }
}
