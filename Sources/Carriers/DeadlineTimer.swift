import NIOCore
import Tunnel

/// One timer that is set to the next deadline, whatever it is by then.
///
/// Deadlines mostly move later (each message pushes the next PING out): such a move costs nothing here, the timer goes
/// off early once and is set again.
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
