import NIOCore

/// Repeats a task on its event loop until the task returns false, or the ticker is cancelled.
final class Ticker {
    private let eventLoop: any EventLoop
    private let interval: TimeAmount
    private let body: () -> Bool
    private var next: Scheduled<Void>?
    private var isCancelled = false

    /// - Parameter body: the task; it returns whether to go on.
    init(_ eventLoop: any EventLoop, every interval: TimeAmount, _ body: @escaping () -> Bool) {
        self.eventLoop = eventLoop
        self.interval = interval
        self.body = body
        self.schedule()
    }

    func cancel() {
        self.isCancelled = true
        self.next?.cancel()
        self.next = nil
    }

    private func schedule() {
        self.next = self.eventLoop.assumeIsolated().scheduleTask(in: self.interval) { [weak self] in
            guard let self, !self.isCancelled, self.body(), !self.isCancelled else { return }
            self.schedule()
        }
    }
}
