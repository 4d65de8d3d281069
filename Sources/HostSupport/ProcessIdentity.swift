import Libc

/// Identifies a process durably, for storing: a process number alone may be reused.
public struct ProcessIdentity: Codable, Hashable, Sendable {
    public var pid: Int32
    /// Clock ticks since the machine started (proc(5), stat, field 22).
    public var startTime: UInt64

    /// nil if there is no such process, or only its zombie.
    public init?(of pid: Int32) {
        guard pid > 0, let bytes = try? SmallFile.read("/proc/\(pid)/stat"),
            // The process's name before it may contain blanks and brackets.
            let end = bytes.lastIndex(of: UInt8(ascii: ")"))
        else { return nil }
        let fields = bytes[(end + 1)...].split(separator: UInt8(ascii: " "))
        guard fields.count > 19, fields[0] != [UInt8(ascii: "Z")], fields[0] != [UInt8(ascii: "X")],
            let time = UInt64(String(decoding: fields[19], as: UTF8.self))
        else { return nil }
        self.pid = pid
        self.startTime = time
    }

    public static var own: ProcessIdentity? { ProcessIdentity(of: getpid()) }

    public var isAlive: Bool { ProcessIdentity(of: self.pid) == self }

    /// The process is alive but another user's, so it can't be signalled.
    public var isOutOfReach: Bool { self.isAlive && kill(self.pid, 0) != 0 && errno == EPERM }

    /// Does nothing if the process has ended.
    public func send(_ signal: CInt) { if self.isAlive { kill(self.pid, signal) } }
}
