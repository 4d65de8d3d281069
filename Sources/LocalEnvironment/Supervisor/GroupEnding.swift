import HostSupport
import Libc
import NIOCore

/// Ends a process and everything it left in its process group: by SIGTERM, and after the grace period by SIGKILL.
final class GroupEnding {
    private let eventLoop: any EventLoop
    private let process: SupervisedProcess
    private let deadline: NIODeadline
    private let onDone: () -> Void
    private static let pause = TimeAmount.milliseconds(20)

    /// - Precondition: the process's end hasn't been reported yet.
    init(_ process: SupervisedProcess, grace: TimeAmount, on eventLoop: any EventLoop, onDone: @escaping () -> Void) {
        self.eventLoop = eventLoop
        self.process = process
        self.deadline = .now() + grace
        self.onDone = onDone
        process.sendToGroup(SIGTERM)
        // A stopped process can't handle SIGTERM until it is continued.
        process.sendToGroup(SIGCONT)
        self.look()
    }

    private func look() {
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) {
            let isLate = NIODeadline.now() >= self.deadline
            // While the group's leader lives, the others needn't be looked for.
            if let leader = self.process.identity, leader.isAlive, !isLate { return self.look() }
            let rest = RunningProcesses.inGroup(self.process.pid)
            guard !rest.isEmpty else { return self.onDone() }
            if isLate { for process in rest { process.send(SIGKILL) } }
            self.look()
        }
    }
}
