import NIOCore

/// When the kernel is told to remember a flow for longer than it would: before it forgets it, and once for each pause.
///
/// A table looks through its flows three times within the kernel's time. So a flow that was idle for a third of that time is seen
/// in the second third, and its entry is still there.
final class FlowUpkeep {
    private let interval: TimeAmount
    private var scheduled: Scheduled<Void>?

    /// The kernel's default for flows with a single exchange.
    private static let usual = TimeAmount.seconds(30)
    /// For a setting of very few seconds. †
    private static let intervalAtLeast = TimeAmount.milliseconds(250)
    /// By how much the kernel is to remember a flow longer than the table does. †
    static let margin = TimeAmount.seconds(5)

    /// - Parameter kernel: how long the kernel remembers a flow; nil: it doesn't tell.
    init(kernel: TimeAmount?) {
        self.interval = max(Self.intervalAtLeast, .nanoseconds((kernel ?? Self.usual).nanoseconds / 3))
    }

    /// - Parameter look: called every `interval` until it returns false.
    func begin(on eventLoop: any EventLoop, _ look: @escaping () -> Bool) {
        guard self.scheduled == nil else { return }
        self.scheduled = eventLoop.assumeIsolated().scheduleTask(in: self.interval) { [weak self] in
            guard let self else { return }
            self.scheduled = nil
            if look() { self.begin(on: eventLoop, look) }
        }
    }

    func isDue(usedAt: NIODeadline, keptAt: NIODeadline?, at now: NIODeadline) -> Bool {
        now - usedAt >= self.interval && (keptAt.map { $0 < usedAt } ?? true)
    }

    func cancel() {
        self.scheduled?.cancel()
        self.scheduled = nil
    }
}
