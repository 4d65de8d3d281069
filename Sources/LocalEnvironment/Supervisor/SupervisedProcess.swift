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
