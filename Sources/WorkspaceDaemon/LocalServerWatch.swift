import Carriers
import NIOCore

/// Tries a local address once a second until something listens there.
@DaemonLoop
final class LocalServerWatch {
    private let target: DialTarget
    private var timer: Scheduled<Void>?
    private var onAnswer: (() -> Void)?

    private static let interval = TimeAmount.seconds(1)

    init(_ target: DialTarget, onAnswer: @escaping () -> Void) {
        self.target = target
        self.onAnswer = onAnswer
        self.tryLater()
    }

    private func tryLater() {
        self.timer = DaemonLoop.eventLoop.assumeIsolated().scheduleTask(in: Self.interval) { [weak self] () -> Void in
            self?.tryNow()
        }
    }

    private func tryNow() {
        self.target.connect(on: DaemonLoop.eventLoop, timeout: Self.interval).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let channel):
                channel.closeProperly()
                let onAnswer = self.onAnswer
                self.onAnswer = nil
                onAnswer?()
            case .failure: if self.onAnswer != nil { self.tryLater() }
            }
        }
    }

    func cancel() {
        self.onAnswer = nil
        self.timer?.cancel()
    }
}
