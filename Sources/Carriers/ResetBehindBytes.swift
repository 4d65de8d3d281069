import NIOCore

/// Resets a socket behind what was received before the reset, as TCP itself does: a reset at once would take with it what NIO
/// and the kernel still hold for the other side.
///
/// It waits as long as bytes move, and gives up where none has for ten seconds.
final class ResetBehindBytes {
    /// What is still to be written.
    struct Rest: Equatable {
        /// All that there is has been written to the channel.
        var isWritten: Bool
        /// Bytes that were written in all: more of them is progress.
        var written: UInt64 = 0
    }

    private let channel: any Channel
    private let patience: TimeAmount
    private let write: () -> Rest
    private var seen: (rest: Rest, unacknowledged: Int)?
    private var movedAt = NIODeadline.now()
    private var interval = TimeAmount.milliseconds(1)

    /// † As for a reset that waits at the sender (`Constants.heldChecks`).
    static let patience = TimeAmount.seconds(10)
    /// Looks are at most so far apart. †
    private static let intervalAtMost = TimeAmount.milliseconds(50)

    /// - Parameter write: gives the channel what it takes now.
    init(_ channel: any Channel, patience: TimeAmount = patience, write: @escaping () -> Rest) {
        self.channel = channel
        self.patience = patience
        self.write = write
    }

    /// Begins. It lives until the socket is closed, by itself or by others.
    func look() {
        guard self.channel.isActive else { return }
        let rest = self.write()
        let unacknowledged = self.channel.unacknowledgedBytes
        if rest.isWritten, unacknowledged == 0 { return self.channel.closeWithReset() }
        let now = NIODeadline.now()
        if let seen, seen.rest == rest, seen.unacknowledged == unacknowledged {
            guard now - self.movedAt < self.patience else { return self.channel.closeWithReset() }
        } else {
            self.seen = (rest, unacknowledged)
            self.movedAt = now
        }
        self.channel.eventLoop.assumeIsolated().scheduleTask(in: self.interval) { self.look() }
        self.interval = min(self.interval * 2, Self.intervalAtMost)
    }
}
