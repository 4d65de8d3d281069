import NIOCore
import Tunnel

/// Decides which dropped messages are logged: each reason at most once a minute. The sender is never told.
struct DropLog {
    private var entries: [DropReason: (at: NIODeadline, suppressed: UInt64)] = [:]

    /// nil: don't log now. Otherwise the number dropped for this reason since the last line, including this one.
    mutating func shouldLog(_ reason: DropReason, now: NIODeadline = .now()) -> UInt64? {
        guard var entry = self.entries[reason] else {
            self.entries[reason] = (now, 0)
            return 1
        }
        entry.suppressed += 1
        defer { self.entries[reason] = entry }
        guard now - entry.at >= .minutes(1) else { return nil }
        defer { entry = (now, 0) }
        return entry.suppressed
    }
}
