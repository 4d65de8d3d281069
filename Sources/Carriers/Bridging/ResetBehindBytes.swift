import NIOCore

/// Resets a socket after the bytes received before the reset, as TCP itself does: an immediate reset would discard what NIO
/// and the kernel still hold for the other side.
///
/// It waits while bytes are being acknowledged, and resets after ten seconds without progress.
final class ResetBehindBytes {
    /// What is still to be written to the channel.
    struct Rest: Equatable {
        /// Everything was written to the channel.
        var isWritten: Bool
        /// Bytes written in all: if this rises, there is progress.
        var written: UInt64 = 0
    }

    private let channel: any Channel
    private let patience: TimeAmount
    private let write: () -> Rest
    private var seen: (rest: Rest, unacknowledged: Int)?
    private var movedAt = NIODeadline.now()
    private var interval = TimeAmount.milliseconds(1)

    /// † As for a reset that is held at the sender (`Constants.heldChecks`).
    static let patience = TimeAmount.seconds(10)
    /// The largest interval between two checks. †
    private static let intervalAtMost = TimeAmount.milliseconds(50)

    /// - Parameter write: writes to the channel what it takes now.
    init(_ channel: any Channel, patience: TimeAmount = patience, write: @escaping () -> Rest) {
        self.channel = channel
        self.patience = patience
        self.write = write
    }

    /// Starts the checks. The object stays alive until the socket is closed, by it or otherwise.
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
