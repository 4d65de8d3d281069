public import NIOCore

/// Sends notifications reliably and in order. One that can't be sent now is retried, as the receiver's socket queues only
/// ten datagrams from all its senders.
///
/// Lives on one event loop.
public final class NotificationQueue {
    private let notifier: ServiceNotifier
    private let eventLoop: any EventLoop
    private var waiting: [[(String, String)]] = []
    private var isTrying = false
    private var tries = 0

    private static let pause = TimeAmount.milliseconds(50)
    /// † Five seconds in total: by then the receiver is gone, or asks again.
    private static let triesAtMost = 100
    /// If the receiver doesn't read, only the latest ones are kept.
    private static let waitingAtMost = 16

    public init(_ notifier: ServiceNotifier, on eventLoop: any EventLoop) {
        self.notifier = notifier
        self.eventLoop = eventLoop
    }

    public func send(_ fields: [(String, String)]) {
        if self.waiting.count >= Self.waitingAtMost { self.waiting.removeFirst() }
        self.waiting.append(fields)
        if !self.isTrying { self.flush() }
    }

    private func flush() {
        while let first = self.waiting.first, self.notifier.send(first) {
            self.waiting.removeFirst()
            self.tries = 0
        }
        self.tries += 1
        if self.tries > Self.triesAtMost { self.waiting = [] }
        self.isTrying = !self.waiting.isEmpty
        guard self.isTrying else {
            self.tries = 0
            return
        }
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { self.flush() }
    }

    public func ready() { self.send(ServiceNotifier.ready) }

    /// Sent before the configuration is read again; `ready` follows.
    public func reloading() { self.send(ServiceNotifier.reloading) }
}
