public import NIOCore

/// Schedules the check for expired flows of a table, at the time when the first one expires.
///
/// Lives on one event loop.
public final class FlowExpiry {
    private var scheduled: (at: NIODeadline, task: Scheduled<Void>)?

    public init() {}

    /// - Parameter next: when the first flow expires; nil if there is none.
    public func watch(_ next: NIODeadline?, on eventLoop: any EventLoop, _ look: @escaping () -> Void) {
        guard let next else { return }
        // An earlier check stays scheduled: if its flow was used since, it finds nothing and reschedules.
        if let scheduled, scheduled.at <= next { return }
        self.scheduled?.task.cancel()
        let task = eventLoop.assumeIsolated().scheduleTask(deadline: next) { [weak self] in
            self?.scheduled = nil
            look()
        }
        self.scheduled = (next, task)
    }

    public func cancel() {
        self.scheduled?.task.cancel()
        self.scheduled = nil
    }
}
