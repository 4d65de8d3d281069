import NIOCore

/// What we let the peer send, on one stream or on the connection: RFC 9000 §4.1, with a window that grows.
///
/// A stream's window follows the measured bandwidth-delay product, as neqo's does: when more was consumed since the last
/// update than that window allows in the elapsed round trips, the window held the sender back, and it grows. It grows only
/// while the application reads what has come: a reader that stands still keeps it small. It shrinks only where other
/// connections need the memory. The connection's window isn't measured: it is as large as memory allows (`follow`).
struct ReceiveWindow {
    /// How many bytes may come in all: the limit that was announced.
    private(set) var limit: UInt64
    /// How many bytes have come in all: the highest offset.
    private(set) var received: UInt64 = 0
    /// How many bytes the application has read, or were discarded for it.
    private(set) var consumed: UInt64 = 0
    private(set) var window: UInt64
    private var updatedAt: Instant?

    init(window: UInt64) {
        self.limit = window
        self.window = window
    }

    var buffered: UInt64 { self.received - self.consumed }

    var unused: UInt64 { self.limit - self.received }

    /// Bytes that are held, and bytes that the announced limit still lets come.
    var promised: UInt64 { self.limit - self.consumed }

    /// False: the peer has exceeded its credit.
    mutating func receive(_ count: UInt64) -> Bool {
        guard count <= self.limit - self.received else { return false }
        self.received += count
        return true
    }

    mutating func consume(_ count: UInt64) { self.consumed += min(count, self.received - self.consumed) }

    /// Whether a new limit should be announced: a quarter of the window was consumed.
    var wantsUpdate: Bool { self.promised < self.window - self.window / 4 }

    /// Called when all bytes in order were read. If half the window lies beyond gaps, the sender is held back by losses,
    /// whose repair takes a round trip, and not by the reader: the window doubles, and the peer should be told.
    mutating func growPastGaps(windowAtMost cap: UInt64) -> Bool {
        guard self.window < cap, self.buffered > self.window / 2 else { return false }
        self.window = min(cap, 2 * self.window)
        self.limit = max(self.limit, self.consumed + self.window)
        return true
    }

    /// Sets the window to the memory that is there, up or down.
    ///
    /// - Returns: the limit to announce.
    mutating func follow(_ window: UInt64) -> UInt64 {
        self.window = window
        self.limit = max(self.limit, self.consumed + window)
        return self.limit
    }

    /// Lowers the window. Limits that were announced still hold: the promise shrinks only as the peer uses it up.
    mutating func shrink(to window: UInt64) { self.window = min(self.window, window) }

    /// Grows the window if it held the sender back, and returns the limit to announce.
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

    /// Limits only rise; a lower one comes from an old frame that was late (RFC 9000 §4.1).
    mutating func raise(to limit: UInt64) -> Bool {
        guard limit > self.limit else { return false }
        self.limit = limit
        return true
    }

    mutating func use(_ count: UInt64) { self.used += min(count, self.available) }
}
