import Libc
import Synchronization

/// The process groups that this process has started, and that must not outlive it.
///
/// A group's first process is reaped only after the whole group has been told to end: until then its number can't be reused.
enum ProcessGroups {
    private static let running = Mutex<Set<Int32>>([])
    private static let atExit: Void = {
        atexit { ProcessGroups.endAll() }
    }()

    static func add(_ pid: Int32) {
        _ = Self.atExit
        _ = Self.running.withLock { $0.insert(pid) }
    }

    /// Does nothing once the group has been reaped. A number of -1 would mean all of this user's processes.
    static func send(_ signal: CInt, to pid: Int32) {
        Self.running.withLock { running in
            if pid > 1, running.contains(pid) { kill(-pid, signal) }
        }
    }

    /// How the group's first process ended; nil if it hasn't. Once it has, the rest of the group is killed.
    static func reap(_ pid: Int32) -> ProcessEnd? { Self.running.withLock { Self.reap(pid, &$0) } }

    private static func reap(_ pid: Int32, _ running: inout Set<Int32>) -> ProcessEnd? {
        guard running.contains(pid) else { return .unknown }
        var information = siginfo_t()
        while waitid(P_PID, id_t(pid), &information, WEXITED | WNOHANG | WNOWAIT) != 0 {
            guard errno == EINTR else {
                // It has been reaped elsewhere.
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

    /// When this process exits: SIGTERM to all groups, and SIGKILL to those that are left 200 ms later.
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
