public import NIOCore

/// When a table's flows are looked through for such as have ended: at the first one's time, which may become an earlier one.
///
/// Lives on one event loop.
public final class FlowExpiry {
    private var scheduled: (at: NIODeadline, task: Scheduled<Void>)?

    public init() {}

    /// - Parameter next: when the first one ends; nil: there is none.
    public func watch(_ next: NIODeadline?, on eventLoop: any EventLoop, _ look: @escaping () -> Void) {
        guard let next else { return }
        // Where the first one was used since, the look finds nothing and is put off.
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
