import HostSupport
import NIOCore

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Tells when processes end: children when the kernel says it, adopted ones by looking, since their parent is another.
///
/// Lives on one event loop.
final class ProcessWatch {
    private let eventLoop: any EventLoop
    private var children: [Int32: (ProcessEnd) -> Void] = [:]
    private var adopted: [ProcessIdentity: (ProcessEnd) -> Void] = [:]
    private var isLooking = false
    private static let pause = TimeAmount.milliseconds(50)

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func watch(child: Int32, onEnd: @escaping (ProcessEnd) -> Void) {
        self.children[child] = onEnd
        // It may have ended before anybody could be told.
        self.eventLoop.assumeIsolated().execute { self.reap() }
    }

    func watch(adopted process: ProcessIdentity, onEnd: @escaping (ProcessEnd) -> Void) {
        self.adopted[process] = onEnd
        self.look()
    }

    /// A child has ended, or several: the signal says neither which nor how many.
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
