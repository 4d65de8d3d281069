import Carriers
import NIOCore

/// Spreads the creation of sockets to local servers over turns of the event loop. A sidecar may open all of its streams at
/// once, and each socket takes 0.1 ms of a loop that also serves other sidecars' tunnels.
final class DialTurns {
    private let eventLoop: any EventLoop
    private var waiting = CircularBuffer<() -> Void>()
    /// Made in this turn. Counted, not timed: what a count costs can't be measured, and a look at the clock for each can.
    private var made = 0
    private var isResting = false

    /// About a millisecond's. †
    static let atOnce = 16

    init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// Calls `socket` now, or after the requests that are waiting.
    func make(_ socket: @escaping () -> Void) {
        if self.isResting { return self.waiting.append(socket) }
        guard self.made < Self.atOnce else {
            self.waiting.append(socket)
            return self.rest()
        }
        self.made += 1
        socket()
    }

    /// The sidecar's tunnel has told all that there was: what comes next comes in another turn.
    func turnIsOver() { if !self.isResting { self.made = 0 } }

    private func rest() {
        self.isResting = true
        self.eventLoop.inNextTurn { [weak self] in self?.goOn() }
    }

    private func goOn() {
        self.made = 0
        while let socket = self.waiting.popFirst() {
            socket()
            self.made += 1
            if self.made == Self.atOnce { return self.rest() }
        }
        self.isResting = false
    }
}
