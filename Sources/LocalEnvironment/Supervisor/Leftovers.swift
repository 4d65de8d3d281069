import HostSupport
import Libc

/// Ends the processes that a supervisor left behind, and waits for their end.
enum Leftovers {
    /// - Parameters:
    ///   - groups: leaders of process groups. One that no longer lives is skipped: its number may belong to another process.
    ///   - others: called again and again, since one of these processes may start another.
    ///   - grace: seconds between SIGTERM and SIGKILL.
    /// - Returns: the processes that couldn't be ended because they belong to another user.
    static func end(groups: [ProcessIdentity], others: () -> [ProcessIdentity], grace: Double) -> [ProcessIdentity] {
        let groups = groups.filter(\.isAlive)
        var asked: Set<ProcessIdentity> = []
        var refused: Set<ProcessIdentity> = []
        let deadline = Self.now() + grace
        // A process that survives SIGKILL waits in the kernel for a disk or network that doesn't answer.
        while Self.now() < deadline + 5 {
            let found = Set(groups.flatMap { RunningProcesses.inGroup($0.pid) } + others()).subtracting(refused)
            guard !found.isEmpty else { break }
            for process in found where process.isAlive {
                let isNew = asked.insert(process).inserted
                guard isNew || Self.now() >= deadline else { continue }
                if kill(process.pid, Self.now() >= deadline ? SIGKILL : SIGTERM) != 0, errno == EPERM {
                    refused.insert(process)
                } else {
                    kill(process.pid, SIGCONT)
                }
            }
            usleep(20_000)
        }
        return refused.sorted { $0.pid < $1.pid }
    }

    private static func now() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
