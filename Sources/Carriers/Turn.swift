public import NIOCore

/// One peer's turn on the loop that serves all of them: it ends with the 64th† piece of work after which a millisecond† is over.
///
/// What is left goes on in the next turn, once everyone else has had theirs: alone a peer has all of the loop, and beside others
/// none keeps it from them.
public struct Turn {
    private let end: NIODeadline
    private var left = Turn.work

    static let work = 64
    static let time = TimeAmount.milliseconds(1)

    public init(at now: NIODeadline = .now()) { self.end = now + Self.time }

    /// Whether it is over, now that so much more was done. A frame is one piece; the clock is read once for many.
    public mutating func isOver(after work: Int = 1, now: () -> NIODeadline = NIODeadline.now) -> Bool {
        self.left -= work
        guard self.left <= 0 else { return false }
        self.left = Self.work
        return now() >= self.end
    }

    /// The same after something large, such as a message in JSON.
    public mutating func isOverAfterMuch(now: () -> NIODeadline = NIODeadline.now) -> Bool {
        self.isOver(after: Self.work, now: now)
    }
}

extension EventLoop {
    /// Runs it in the loop's next turn, after what has come for others meanwhile.
    ///
    /// SwiftNIO runs what is due, also what became due while it did that, before it looks at sockets again. So it is to be due in
    /// a while, counted from when what is due now has run.
    @discardableResult
    public func inNextTurn(_ body: @escaping () -> Void) -> Scheduled<Void> {
        self.assumeIsolated().scheduleTask(in: .zero) {
            self.assumeIsolated().scheduleTask(in: .microseconds(20), body)
            return
        }
    }
}
