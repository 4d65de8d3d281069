import HostSupport
import Libc
import NIOCore

/// Reports when processes end: children after SIGCHLD, adopted processes by polling, since they have another parent.
///
/// Used on one event loop only.
final class ProcessWatch {
    private let eventLoop: any EventLoop
    private var children: [Int32: (ProcessEnd) -> Void] = [:]
    private var adopted: [ProcessIdentity: (ProcessEnd) -> Void] = [:]
    private var isLooking = false
    private static let pause = TimeAmount.milliseconds(50)

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func watch(child: Int32, onEnd: @escaping (ProcessEnd) -> Void) {
        self.children[child] = onEnd
        // The child may have ended before it was registered here.
        self.eventLoop.assumeIsolated().execute { self.reap() }
    }

    func watch(adopted process: ProcessIdentity, onEnd: @escaping (ProcessEnd) -> Void) {
        self.adopted[process] = onEnd
        self.look()
    }

    /// Called after SIGCHLD: the signal says neither which children have ended nor how many.
    func reap() {
        for (pid, onEnd) in self.children {
            var status: Int32 = 0
            let result = waitpid(pid, &status, WNOHANG)
            guard result != 0, !(result < 0 && errno == EINTR) else { continue }
            self.children[pid] = nil
            onEnd(result > 0 ? ProcessEnd(status: status) : .unknown)
        }
    }

    private func look() {
        guard !self.isLooking, !self.adopted.isEmpty else { return }
        self.isLooking = true
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) {
            self.isLooking = false
            for (process, onEnd) in self.adopted where !process.isAlive {
                self.adopted[process] = nil
                onEnd(.unknown)
            }
            self.look()
        }
    }
}
