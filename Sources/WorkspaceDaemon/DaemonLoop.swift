import NIOCore
import NIOPosix

/// The daemon's only event loop, as an actor: tunnels, local sockets, the API and every decision run on it, and isolated
/// `async` functions return to it.
@globalActor
actor DaemonLoop {
    static let shared = DaemonLoop()
    static let eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()
    private static let executor: any SerialExecutor = DaemonLoop.eventLoop.executor

    nonisolated var unownedExecutor: UnownedSerialExecutor { Self.executor.asUnownedSerialExecutor() }
}

/// A condition variable: each waiter checks its condition again whenever `happened` is called.
@DaemonLoop
final class Changes {
    private var waiting: [UInt64: CheckedContinuation<Void, Never>] = [:]
    private var next: UInt64 = 0

    func happened() {
        let waiting = self.waiting
        self.waiting = [:]
        for continuation in waiting.values { continuation.resume() }
    }

    /// Waits until the condition holds, the task is cancelled, or the time limit has passed. Returns whether the condition
    /// holds.
    func wait(within limit: TimeAmount? = nil, until condition: () -> Bool) async -> Bool {
        let until = limit.map { NIODeadline.now() + $0 }
        // Not before the deadline: the loop below would wait again, and no other timer would wake it.
        let timer = until.map { until in
            DaemonLoop.eventLoop.assumeIsolated().scheduleTask(deadline: until) { [weak self] () -> Void in
                self?.happened()
            }
        }
        defer { timer?.cancel() }
        while !condition() {
            if Task.isCancelled { return false }
            if let until, NIODeadline.now() >= until { return false }
            await self.wait()
        }
        return true
    }

    private func wait() async {
        self.next += 1
        let number = self.next
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                if Task.isCancelled { return continuation.resume() }
                self.waiting[number] = continuation
            }
        } onCancel: {
            Task { @DaemonLoop in self.waiting.removeValue(forKey: number)?.resume() }
        }
    }
}

/// Lets one task in at a time.
@DaemonLoop
final class Turnstile {
    private var isTaken = false
    private let changes = Changes()

    /// False: the task was cancelled while it waited. Then it hasn't entered, and must not call `leave`.
    func enter() async -> Bool {
        if await self.changes.wait(until: { !self.isTaken }) {
            self.isTaken = true
            return true
        }
        return false
    }

    func leave() {
        self.isTaken = false
        self.changes.happened()
    }
}
