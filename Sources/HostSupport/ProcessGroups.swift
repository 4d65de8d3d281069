import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The groups of processes that this one has started, and that shall not outlive it.
///
/// A group's first process isn't waited for before all of the group have been told to end: until then its number is nobody
/// else's.
enum ProcessGroups {
    private static let running = Mutex<Set<Int32>>([])
    private static let atExit: Void = {
        atexit { ProcessGroups.endAll() }
    }()

    static func add(_ pid: Int32) {
        _ = Self.atExit
        _ = Self.running.withLock { $0.insert(pid) }
    }

    /// Nothing happens once it has been reaped. -1 would be everything that this user runs.
    static func send(_ signal: CInt, to pid: Int32) {
        Self.running.withLock { running in
            if pid > 1, running.contains(pid) { kill(-pid, signal) }
        }
    }

    /// How the first process of the group ended, if it has: then what is left of the group has ended as well.
    static func reap(_ pid: Int32) -> ProcessEnd? { Self.running.withLock { Self.reap(pid, &$0) } }

    private static func reap(_ pid: Int32, _ running: inout Set<Int32>) -> ProcessEnd? {
        guard running.contains(pid) else { return .unknown }
        var information = siginfo_t()
        while waitid(P_PID, id_t(pid), &information, WEXITED | WNOHANG | WNOWAIT) != 0 {
            guard errno == EINTR else {
                // Somebody else has waited for it.
                running.remove(pid)
                return .unknown
            }
        }
        guard information.si_signo != 0 else { return nil }
        kill(-pid, SIGKILL)
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        running.remove(pid)
        return ProcessEnd(status: status)
    }

    /// At this process's own end: asked, and after a moment not asked.
    private static func endAll() {
        self.running.withLock { running in
            for pid in running { kill(-pid, SIGTERM) }
            for _ in 0..<20 {
                for pid in running { _ = Self.reap(pid, &running) }
                if running.isEmpty { return }
                usleep(10_000)
            }
            for pid in running { kill(-pid, SIGKILL) }
        }
    }
}
