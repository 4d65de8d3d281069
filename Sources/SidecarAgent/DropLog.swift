import NIOCore
import Tunnel

/// Silence is towards the network; the log hears of each reason at most once a minute.
struct DropLog {
    private var entries: [DropReason: (at: NIODeadline, suppressed: UInt64)] = [:]

    /// nil: not now. Else how many were dropped for this reason since the last line, this one included.
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
