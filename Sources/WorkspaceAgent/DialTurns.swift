import Carriers
import NIOCore

/// Spreads the creation of sockets to local servers over turns of the event loop. A sidecar may open all of its streams at
/// once, and each socket takes 0.1 ms of a loop that also serves other sidecars' tunnels.
final class DialTurns {
    private let eventLoop: any EventLoop
    private var waiting = CircularBuffer<() -> Void>()
    private var turn = Turn()
    private var madeAt = NIODeadline.now()
    private var isResting = false

    /// A socket costs about as much time as this many frames. †
    private static let work = 16
    /// A request that comes this long after the last one begins a new burst. †
    private static let gap = TimeAmount.microseconds(100)

    init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// Calls `socket` now, or after the requests that are waiting.
    func make(_ socket: @escaping () -> Void) {
        guard !self.isResting else { return self.waiting.append(socket) }
        let now = NIODeadline.now()
        if now - self.madeAt > Self.gap { self.turn = Turn(at: now) }
        socket()
        self.madeAt = .now()
        if self.turn.isOver(after: Self.work) { self.rest() }
    }

    private func rest() {
        self.isResting = true
        self.eventLoop.inNextTurn { [weak self] in self?.goOn() }
    }

    private func goOn() {
        self.turn = Turn()
        while let socket = self.waiting.popFirst() {
            socket()
            if self.turn.isOver(after: Self.work) { return self.rest() }
        }
        self.isResting = false
        self.madeAt = .now()
    }
}
