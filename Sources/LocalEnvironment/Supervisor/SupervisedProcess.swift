import Environments
import HostSupport
import Libc
import NIOCore

/// A process that leads its own session and process group, as each one that a supervisor starts does.
struct SupervisedProcess {
    let pid: Int32
    /// Nil: it ended before its identity could be read.
    let identity: ProcessIdentity?
    let isChild: Bool
    private let since = NIODeadline.now()

    init(child pid: Int32) {
        self.pid = pid
        self.identity = ProcessIdentity(of: pid)
        self.isChild = true
    }

    init(adopted identity: ProcessIdentity) {
        self.pid = identity.pid
        self.identity = identity
        self.isChild = false
    }

    /// In milliseconds.
    var life: Int64 { (NIODeadline.now() - self.since).nanoseconds / 1_000_000 }

    /// - Precondition: a child's end hasn't been reported yet: until it is reaped its number isn't reused.
    func send(_ signal: CInt) { if self.isOurs { kill(self.pid, signal) } }

    /// A process id of 1 would signal every process of this user (`kill(-1)`).
    func sendToGroup(_ signal: CInt) { if self.pid > 1, self.isOurs { kill(-self.pid, signal) } }

    private var isOurs: Bool { self.isChild || self.identity?.isAlive ?? false }
}

extension Backoff {
    /// The first restart is immediate, since clients wait in the sidecar's listening sockets meanwhile.
    static let ofSidecar = Backoff([0, 100, 200, 500, 1_000, 2_000, 5_000])
    static let ofService = Backoff([100, 200, 500, 1_000, 2_000, 5_000, 10_000])
}

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
