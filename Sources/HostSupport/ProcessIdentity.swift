#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// A process in a form that can be written down: a number alone is given to another process one day.
public struct ProcessIdentity: Codable, Hashable, Sendable {
    public var pid: Int32
    /// Clock ticks since the machine started (proc(5), stat, field 22).
    public var startTime: UInt64

    /// Nil: there is no such process, or it has ended and only waits for its parent.
    public init?(of pid: Int32) {
        guard pid > 0, let bytes = try? SmallFile.read("/proc/\(pid)/stat"),
            // The name before it may hold blanks and brackets of its own.
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

    /// It lives, and is another user's, to whom nothing can be said.
    public var isOutOfReach: Bool { self.isAlive && kill(self.pid, 0) != 0 && errno == EPERM }

    /// Nothing happens if the process has ended.
    public func send(_ signal: CInt) { if self.isAlive { kill(self.pid, signal) } }
}
