import NIOCore
import Tunnel

/// One timer for the next deadline, which may move while the timer runs.
///
/// Deadlines mostly move later (each message postpones the next PING). That costs nothing here: the timer fires early once,
/// and is then set again.
final class DeadlineTimer {
    private let eventLoop: any EventLoop
    private var armedFor: Instant?
    private var scheduled: Scheduled<Void>?
    var onDeadline: (() -> Void)?

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func arm(for deadline: Instant?, now: Instant) {
        guard let deadline else { return self.cancel() }
        if let armedFor = self.armedFor, armedFor <= deadline { return }
        self.scheduled?.cancel()
        self.armedFor = deadline
        let delay = max(TimeAmount.nanoseconds(0), deadline - now)
        self.scheduled = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self else { return }
            self.armedFor = nil
            self.scheduled = nil
            self.onDeadline?()
        }
    }

    func cancel() {
        self.scheduled?.cancel()
        self.scheduled = nil
        self.armedFor = nil
    }
}
