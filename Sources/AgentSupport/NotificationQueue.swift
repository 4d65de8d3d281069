public import NIOCore

/// Notifications that must come, in their order: what can't be sent now is tried again, since the other end takes ten at a time
/// from all who tell it something.
///
/// Lives on one event loop.
public final class NotificationQueue {
    private let notifier: ServiceNotifier
    private let eventLoop: any EventLoop
    private var waiting: [[(String, String)]] = []
    private var isTrying = false
    private var tries = 0

    private static let pause = TimeAmount.milliseconds(50)
    /// † Five seconds long: by then there is nobody, or somebody asks again.
    private static let triesAtMost = 100
    /// Whoever never takes any gets the latest ones.
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

    /// Before the configuration is read again; `ready` follows.
    public func reloading() { self.send(ServiceNotifier.reloading) }
}
