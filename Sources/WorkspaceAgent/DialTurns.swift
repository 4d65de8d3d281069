import Carriers
import NIOCore

/// Sockets towards local servers, made in turns: a sidecar may open all of its streams at once, and each socket takes this loop,
/// which has other sidecars' tunnels too, a tenth of a millisecond.
final class DialTurns {
    private let eventLoop: any EventLoop
    private var waiting = CircularBuffer<() -> Void>()
    private var turn = Turn()
    private var madeAt = NIODeadline.now()
    private var isResting = false

    /// A socket is as much work as so many frames. †
    private static let work = 16
    /// Who comes so long after the last one hasn't come with it. †
    private static let gap = TimeAmount.microseconds(100)

    init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// At once, or after those that wait.
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
