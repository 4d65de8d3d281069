import InterceptProtocol
import NIOCore
import Tunnel

/// The `start` that the sidecar is owed: a state and no queue, whatever it asks for and however little of it it reads.
struct OwedStart {
    var isOwed = false
    var saidAt: NIODeadline?
    var timer: Scheduled<Void>?

    /// One that the sidecar causes comes no sooner after another: `withdrawn` is 24 bytes, and a `start` up to 64 KiB.
    static let interval = TimeAmount.seconds(1)
}

extension WorkspaceAgent {
    /// This workspace has something new to ask for, or a connection on which nothing has been asked for yet.
    func sendStart() {
        self.owed.isOwed = true
        self.payStart()
    }

    /// The sidecar has lost what it was asked for, or says so.
    func startIsWanted() {
        self.owed.isOwed = true
        let now = NIODeadline.now()
        guard let saidAt = self.owed.saidAt, now < saidAt + OwedStart.interval, !self.isEnding else {
            return self.payStart()
        }
        guard self.owed.timer == nil else { return }
        let due = saidAt + OwedStart.interval
        self.owed.timer = self.eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] () -> Void in
            self?.owed.timer = nil
            self?.payStart()
        }
    }

    /// Once there is room for it: the stream says when.
    func payStart() {
        guard self.owed.isOwed, self.hasRoomToSay else { return }
        self.forgetOwed()
        self.owed.saidAt = .now()
        self.sayStart()
    }

    /// There is a connection, and its sidecar reads what it is told.
    var hasRoomToSay: Bool {
        self.client?.withConnection { $0.isActive && $0.writableBytes(.control) > 0 } ?? false
    }

    /// It was answered, or there is nobody to be told any more.
    func forgetOwed() {
        self.owed.isOwed = false
        self.owed.timer?.cancel()
        self.owed.timer = nil
    }
}
