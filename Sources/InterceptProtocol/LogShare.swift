public import Logging
import NIOCore
import Synchronization

/// Limits the log lines that one peer may cause: 20† at once, then one each 10 s†. Further ones are left out, and the next
/// line says how many were.
///
/// Lines are written by the loop that serves all peers, and stay on disk: no accepted key may use up either.
public final class LogShare: Sendable {
    private struct State {
        var lines = Allowance(atOnce: 20, interval: .seconds(10))  // †
        var leftOut: UInt64 = 0
    }

    private let state = Mutex(State())

    public init() {}

    /// nil: don't log now. Otherwise, the number of lines left out since the last one.
    func takeLine(at now: NIODeadline = .now()) -> UInt64? {
        self.state.withLock { state in
            guard state.lines.take(at: now) else {
                state.leftOut += 1
                return nil
            }
            defer { state.leftOut = 0 }
            return state.leftOut
        }
    }
}

extension Logger {
    /// The same log, limited for events that one peer causes.
    public func limited(by share: LogShare) -> Logger {
        var log = self
        log.handler = LimitedLogHandler(self.handler, share)
        return log
    }
}

private struct LimitedLogHandler: LogHandler {
    private var handler: any LogHandler
    private let share: LogShare

    init(_ handler: any LogHandler, _ share: LogShare) {
        self.handler = handler
        self.share = share
    }

    var metadata: Logger.Metadata {
        get { self.handler.metadata }
        set { self.handler.metadata = newValue }
    }

    var logLevel: Logger.Level {
        get { self.handler.logLevel }
        set { self.handler.logLevel = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.handler[metadataKey: key] }
        set { self.handler[metadataKey: key] = newValue }
    }

    func log(event: LogEvent) {
        guard let leftOut = self.share.takeLine() else { return }
        var event = event
        if leftOut > 0 { event.metadata = (event.metadata ?? [:]).merging(["left_out": "\(leftOut)"]) { $1 } }
        self.handler.log(event: event)
    }
}
