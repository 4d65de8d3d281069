import Libc

/// Whether this process runs directly on a host, and not in a container.
enum PlainHost {
    static var isThis: Bool {
        // The initial PID namespace has a fixed inode number (include/linux/proc_ns.h: PROC_PID_INIT_INO).
        var target = [CChar](repeating: 0, count: 64)
        let count = readlink("/proc/self/ns/pid", &target, target.count - 1)
        guard count > 0 else { return false }
        return String(decoding: target[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self) == "pid:[4026531836]"
    }
}
