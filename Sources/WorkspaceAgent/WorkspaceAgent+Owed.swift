import InterceptProtocol
import NIOCore
import Tunnel

/// The `start` that is still to be sent. A flag and no queue, so it stays bounded however much the sidecar asks for or
/// leaves unread.
struct OwedStart {
    var isOwed = false
    var saidAt: NIODeadline?
    var timer: Scheduled<Void>?

    /// The minimum time between `start`s that the sidecar causes: its `withdrawn` takes 24 bytes, a `start` up to 64 KiB.
    static let interval = TimeAmount.seconds(1)
}

extension WorkspaceAgent {
    /// Sends a `start` as soon as possible: this workspace has something new to ask for, or the connection is new.
    func sendStart() {
        self.forgetOwed()
        self.owed.isOwed = true
        self.payStart()
    }

    /// Sends a `start`, at most one per interval: the sidecar has lost what it was asked for, or says so.
    func startIsWanted() {
        // What is owed already waits for its time, or for room.
        guard !self.owed.isOwed || self.isEnding else { return }
        self.owed.isOwed = true
        let now = NIODeadline.now()
        guard let saidAt = self.owed.saidAt, now < saidAt + OwedStart.interval, !self.isEnding else {
            return self.payStart()
        }
        let due = saidAt + OwedStart.interval
        self.owed.timer = self.eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] () -> Void in
            self?.owed.timer = nil
            self?.payStart()
        }
    }

    /// Sends the `start` that is owed if its time has come and the stream has room; otherwise the timer or the stream's
    /// `writable` event, which the sidecar can cause at will, calls this again.
    func payStart() {
        guard self.owed.isOwed, self.owed.timer == nil, self.hasRoomToSay else { return }
        self.forgetOwed()
        self.owed.saidAt = .now()
        self.sayStart()
    }

    /// There is a connection, and the sidecar reads the control stream.
    var hasRoomToSay: Bool {
        self.client?.withConnection { $0.isActive && $0.writableBytes(.control) > 0 } ?? false
    }

    /// The `start` was answered, or the connection is over.
    func forgetOwed() {
        self.owed.isOwed = false
        self.owed.timer?.cancel()
        self.owed.timer = nil
    }
}
