import Carriers
import NIOCore

/// Sockets towards local servers, made in turns: a sidecar may open all of its streams at once, and each socket takes this loop,
/// which has other sidecars' tunnels too, a tenth of a millisecond.
final class DialTurns {
    private let eventLoop: any EventLoop
    private var waiting = CircularBuffer<() -> Void>()
    private var turn: Turn?
    private var isResting = false

    /// A socket is as much work as so many frames. †
    private static let work = 16

    init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// At once, or after those that wait.
    func make(_ socket: @escaping () -> Void) {
        guard !self.isResting else { return self.waiting.append(socket) }
        if self.turn == nil {
            self.turn = Turn()
            self.eventLoop.assumeIsolated().execute { self.turn = nil }
        }
        socket()
        if self.turn?.isOver(after: Self.work) ?? false { self.rest() }
    }

    private func rest() {
        self.isResting = true
        self.eventLoop.inNextTurn { [weak self] in self?.goOn() }
    }

    private func goOn() {
        var turn = Turn()
        while let socket = self.waiting.popFirst() {
            socket()
            if turn.isOver(after: Self.work) { return self.rest() }
        }
        self.isResting = false
    }
}
