import ComposeFiles
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc

/// Ends a local environment, whether or not its supervisor lives.
public enum SupervisorEnding {
    /// Whether `down` would have something to do: there are running processes, even without a supervisor or an entry in a
    /// state file, or files left on the disk.
    public static func isNeeded(file: String) throws(Problem) -> Bool {
        guard let folder = try StateFolder.open(besideFile: ComposeFile.absolutePath(of: file)) else { return false }
        return Cleanup.isNeeded(in: folder) || !SupervisorMark(folder: folder.path).processes().isEmpty
    }

    /// Returns once nothing of the environment runs. Does nothing if it isn't up.
    ///
    /// - Parameters:
    ///   - file: the compose file, which may be missing or broken by now.
    ///   - progress: called with a line for people whenever something is new.
    /// - Returns: whether there was something to end.
    @discardableResult
    public static func down(file: String, progress: (String) -> Void) throws(Problem) -> Bool {
        let path = ComposeFile.absolutePath(of: file)
        guard let folder = try StateFolder.open(besideFile: path) else { return false }
        for _ in 0..<200 {
            if try Self.ask(folder, progress) { return true }
            // No supervisor listens: it is gone, or has only just begun.
            do {
                if let lock = try FileLock.tryToAcquire(folder.supervisorLock, mode: folder.fileMode) {
                    let result = try Self.endLeftovers(of: path, in: folder, progress)
                    withExtendedLifetime(lock) {}
                    return result
                }
            } catch {
                throw error.problem
            }
            usleep(50_000)
        }
        throw Problem(
            .failed,
            "\(folder.supervisorLock) is held by a process that doesn't answer",
            "Look which one hangs" + " (fuser '\(folder.supervisorLock)'), and end it."
        )
    }

    /// False: no supervisor listens.
    private static func ask(_ folder: StateFolder, _ progress: (String) -> Void) throws(Problem) -> Bool {
        do {
            guard let client = try JSONLinesClient(path: folder.supervisorSocket) else { return false }
            let supervisor = client.peer.flatMap { ProcessIdentity(of: $0) }
            try client.send(SupervisorRequest.down)
            while true {
                switch try client.receive(SupervisorReply.self) {
                case .message(.progress(let line)): progress(line)
                case .message(.done):
                    Self.waitForEnd(of: supervisor)
                    return true
                case .message(.failed(let problem)): throw Problem(.failed, problem)
                case .message: continue
                // The supervisor was killed meanwhile, say: the caller looks for leftovers.
                case .ended, .timedOut, .interrupted: return false
                }
            }
        } catch let error as Problem {
            throw error
        } catch {
            throw SupervisorClient.problem(error, folder)
        }
    }

    /// The supervisor has answered `done`: everything but its own process has ended.
    private static func waitForEnd(of supervisor: ProcessIdentity?) {
        for _ in 0..<400 where supervisor?.isAlive == true { usleep(5_000) }
    }

    private static func endLeftovers(
        of file: String,
        in folder: StateFolder,
        _ progress: (String) -> Void
    ) throws(Problem) -> Bool {
        let mark = SupervisorMark(folder: folder.path)
        let state = (try? EnvironmentState.read(from: folder)) ?? nil
        let named = (state?.services ?? []).flatMap { [$0.process] + $0.sidecars.map(\.process) }.compactMap { $0 }
        let isUp = state != nil || !mark.processes().isEmpty
        if isUp { progress("the supervisor is gone: ending what it has left") }
        let grace = (try? ComposeFile.read(path: file))?.services.map(\.stopGraceSeconds).max() ?? 10
        let rest = Leftovers.end(groups: named, others: { mark.processes() }, grace: grace)
        if !rest.isEmpty { throw Self.othersProcesses(rest) }
        if let problem = Cleanup.remove(from: folder) { throw Problem(.failed, problem) }
        return isUp
    }

    static func othersProcesses(_ processes: [ProcessIdentity]) -> Problem {
        let pids = processes.map { "\($0.pid)" }.joined(separator: ", ")
        return Problem(
            .failed,
            "the processes \(pids) of this environment are another user's",
            "Ask them to end it: kl env down"
        )
    }
}

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
        let deadline = Steady.milliseconds + Int64(min(grace, 86_400) * 1_000)
        // A process that survives SIGKILL waits in the kernel for a disk or network that doesn't answer.
        while Steady.milliseconds < deadline + 5_000 {
            let found = Set(groups.flatMap { RunningProcesses.inGroup($0.pid) } + others()).subtracting(refused)
            guard !found.isEmpty else { break }
            for process in found where process.isAlive {
                let isNew = asked.insert(process).inserted
                guard isNew || Steady.milliseconds >= deadline else { continue }
                if kill(process.pid, Steady.milliseconds >= deadline ? SIGKILL : SIGTERM) != 0, errno == EPERM {
                    refused.insert(process)
                } else {
                    kill(process.pid, SIGCONT)
                }
            }
            usleep(20_000)
        }
        return refused.sorted { $0.pid < $1.pid }
    }
}
