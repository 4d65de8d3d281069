public import NIOCore

/// One peer's turn on the event loop that serves all of them: it ends after every 64th† piece of work if a millisecond† has
/// passed.
///
/// The rest continues in the next turn, after the other peers have had theirs: a peer that is alone gets the whole loop, and
/// with others none can monopolise it.
public struct Turn {
    private let end: NIODeadline
    private var left = Turn.work

    static let work = 64
    static let time = TimeAmount.milliseconds(1)

    public init(at now: NIODeadline = .now()) { self.end = now + Self.time }

    /// Counts `work`, and returns whether the turn is over. A frame is one piece; the clock is read only once per 64 pieces.
    public mutating func isOver(after work: Int = 1, now: () -> NIODeadline = NIODeadline.now) -> Bool {
        self.left -= work
        guard self.left <= 0 else { return false }
        self.left = Self.work
        return now() >= self.end
    }

    /// The same after a large piece of work, such as a message in JSON.
    public mutating func isOverAfterMuch(now: () -> NIODeadline = NIODeadline.now) -> Bool {
        self.isOver(after: Self.work, now: now)
    }
}

extension EventLoop {
    /// Runs the closure in the loop's next turn, after events that have come for others meanwhile.
    ///
    /// Before SwiftNIO polls its sockets again it runs all tasks that are due, including those that became due meanwhile. So
    /// the closure is scheduled by a task, a short time after that task has run.
    @discardableResult
    public func inNextTurn(_ body: @escaping () -> Void) -> Scheduled<Void> {
        self.assumeIsolated().scheduleTask(in: .zero) {
            self.assumeIsolated().scheduleTask(in: .microseconds(20), body)
            return
        }
    }
}
