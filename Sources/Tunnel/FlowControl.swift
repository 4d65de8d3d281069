import NIOCore

/// What we let the peer send, on one stream or on the connection: RFC 9000 §4.1, with a window that grows.
///
/// The window follows the measured bandwidth-delay product, as neqo's does: whenever more was consumed since the last
/// update than a window a round trip would explain, the window was what held the sender back, and it grows.
/// It grows only while the application takes what there is: a reader that stands still keeps it small. It shrinks only where
/// others need the room. A connection's isn't measured: it is as great as there is room for (`follow`).
struct ReceiveWindow {
    /// How many bytes may come in all, as the peer was told.
    private(set) var limit: UInt64
    /// How many came in all: the greatest offset.
    private(set) var received: UInt64 = 0
    /// How many the application took, or that were thrown away on its behalf.
    private(set) var consumed: UInt64 = 0
    private(set) var window: UInt64
    private var updatedAt: Instant?

    init(window: UInt64) {
        self.limit = window
        self.window = window
    }

    var buffered: UInt64 { self.received - self.consumed }

    var unused: UInt64 { self.limit - self.received }

    /// What is held, and what may still come by what the peer was told.
    var promised: UInt64 { self.limit - self.consumed }

    /// False: the peer went past its credit.
    mutating func receive(_ count: UInt64) -> Bool {
        guard count <= self.limit - self.received else { return false }
        self.received += count
        return true
    }

    mutating func consume(_ count: UInt64) { self.consumed += min(count, self.received - self.consumed) }

    /// Whether so much was consumed that the peer should hear of it: a quarter of the window.
    var wantsUpdate: Bool { self.promised < self.window - self.window / 4 }

    /// All that is in order was taken, and half the window lies beyond gaps: what holds the sender back are losses, which
    /// take a round trip to mend, and not the reader. The window doubles, and the peer should hear of it.
    mutating func growPastGaps(windowAtMost cap: UInt64) -> Bool {
        guard self.window < cap, self.buffered > self.window / 2 else { return false }
        self.window = min(cap, 2 * self.window)
        self.limit = max(self.limit, self.consumed + self.window)
        return true
    }

    /// For a window that follows what there is room for, up and down.
    ///
    /// - Returns: the limit to announce.
    mutating func follow(_ window: UInt64) -> UInt64 {
        self.window = window
        self.limit = max(self.limit, self.consumed + window)
        return self.limit
    }

    /// What was granted stays granted: the promise gets smaller only as the peer uses it up.
    mutating func shrink(to window: UInt64) { self.window = min(self.window, window) }

    /// The new limit to announce.
    mutating func update(at now: Instant, roundTripTime: TimeAmount, windowAtMost cap: UInt64) -> UInt64 {
        if let updatedAt = self.updatedAt, self.window < cap {
            let elapsed = Double(max(0, (now - updatedAt).nanoseconds))
            let expected = Double(self.window) * 0.75 * elapsed / Double(max(1, roundTripTime.nanoseconds))
            let used = Double(self.window - min(self.window, self.limit - self.consumed))
            if used > expected {
                let growth = (used - expected) * 4
                self.window = min(cap, self.window + UInt64(min(growth, Double(cap))))
            }
        }
        self.updatedAt = now
        self.limit = max(self.limit, self.consumed + self.window)
        return self.limit
    }
}

/// What the peer lets us send.
struct SendCredit {
    private(set) var limit: UInt64
    private(set) var used: UInt64 = 0

    init(limit: UInt64) { self.limit = limit }

    var available: UInt64 { self.limit - self.used }

    /// Limits only rise; a lower one is an old frame that came late (RFC 9000 §4.1).
    mutating func raise(to limit: UInt64) -> Bool {
        guard limit > self.limit else { return false }
        self.limit = limit
        return true
    }

    mutating func use(_ count: UInt64) { self.used += min(count, self.available) }
}
