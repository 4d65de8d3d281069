import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// The state of reading the control stream.
struct ControlReading {
    var decoder = ControlMessageDecoder()
    var pause: Scheduled<Void>?

    fileprivate static let atOnce = 16 * 1_024
}

extension WorkspaceLink {
    /// Handles the workspace's control messages, a limited number in each turn of the event loop. The rest stays unread in
    /// the stream.
    func readControl() {
        guard self.control.pause == nil else { return }
        var turn = Turn()
        do throws(ControlError) {
            while let next = try self.nextControl() {
                switch next {
                case .message(let message): self.receive(message)
                case .refused(let failure): self.send(.failed(failure))
                case .needsMore: return
                }
                if turn.isOverAfterMuch() { return self.pauseControl() }
            }
        } catch {
            self.log.warning("closing the connection: \(error)", metadata: self.metadata)
            self.agent.closeConnection(of: self.key, .controlError)
        }
    }

    /// nil if there is no message now.
    private func nextControl() throws(ControlError) -> ControlMessageDecoder.Next? {
        // While the workspace doesn't read our answers, no more requests are read from it.
        guard !self.answers.isFull,
            self.withConnection({ $0.isActive && $0.writableBytes(.control) > 0 }) ?? false
        else { return nil }
        while true {
            let next = try self.control.decoder.next()
            guard case .needsMore = next else { return next }
            guard case .bytes(let bytes) = self.withConnection({ $0.read(.control, atMost: ControlReading.atOnce) })
            else { return nil }
            self.control.decoder.append(bytes)
        }
    }

    private func pauseControl() {
        self.control.pause = self.agent.eventLoop.inNextTurn { [weak self] in
            self?.control.pause = nil
            self?.readControl()
        }
    }
}
