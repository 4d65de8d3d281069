import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// This machine's processes, as /proc lists them.
enum RunningProcesses {
    /// Those of a process group that haven't ended.
    static func inGroup(_ group: Int32) -> [ProcessIdentity] {
        Self.numbers.filter { Self.group(of: $0) == group }.compactMap { ProcessIdentity(of: $0) }
    }

    /// Those whose environment names something that begins so, from their start on, with the rest of it: descendants too, also
    /// where they left their group. This process isn't among them. Other users' can't be looked at, and some programs write
    /// over theirs.
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

    /// Its program's name; nil where there is none.
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
