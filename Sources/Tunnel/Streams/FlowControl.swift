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

/// Flow control of a connection: what all its streams but the control stream may send, receive and keep together.
struct FlowControl {
    private(set) var sendCredit: SendCredit
    private(set) var receiveWindow: ReceiveWindow
    /// Bytes in all send buffers.
    private(set) var sendBuffered = 0
    /// Gaps in all receive buffers.
    private(set) var gapCount = 0
    /// Some streams have nothing unsent, and wait for room that others free.
    private var someWaitForRoom = false
    /// This connection's part of the memory that all connections of a responder share. nil: its bounds are its own.
    private var memory: StreamMemoryPart?
    private let maxSendBuffer: Int
    private let maxWindow: UInt64

    init(_ configuration: TunnelConfiguration, window: UInt64, credit: UInt64, sharing memory: StreamMemory?) {
        self.sendCredit = SendCredit(limit: credit)
        self.receiveWindow = ReceiveWindow(window: window)
        self.maxSendBuffer = configuration.sendBuffer
        self.maxWindow = configuration.maxConnectionWindow
        self.memory = memory.map { StreamMemoryPart(of: $0, configuration) }
    }

    // MARK: Sending

    /// The bound on bytes in all send buffers: the configured one or, at a responder, what other connections leave of the
    /// shared memory.
    var sendBufferAtMost: Int {
        self.memory.map { min(self.maxSendBuffer, Int(clamping: $0.mayKeep)) } ?? self.maxSendBuffer
    }

    /// False: not more than before.
    mutating func raiseCredit(to limit: UInt64) -> Bool { self.sendCredit.raise(to: limit) }

    mutating func useCredit(_ count: UInt64) { self.sendCredit.use(count) }

    /// Bytes were added to send buffers, or taken out where the count is negative.
    mutating func sendBuffersChanged(by count: Int) {
        self.sendBuffered += count
        self.memory?.keep(self.sendBuffered)
    }

    mutating func waitForRoom() { self.someWaitForRoom = true }

    /// True, once: there is room for those that wait.
    mutating func roomIsThere() -> Bool {
        guard self.someWaitForRoom, self.sendBuffered <= self.sendBufferAtMost / 4 * 3 else { return false }
        self.someWaitForRoom = false
        return true
    }

    // MARK: Receiving

    /// The largest window of the connection: the configured one or, at a responder, what other connections leave of the
    /// shared memory.
    var windowAtMost: UInt64 { self.memory.map { min(self.maxWindow, $0.mayPromise) } ?? self.maxWindow }

    /// Other connections leave less than the configured window.
    var memoryIsScarce: Bool { self.windowAtMost < self.maxWindow }

    /// The largest window of a stream: at most half of what is left of the connection's, so that a few streams whose readers
    /// stand still never take all of it. The control stream doesn't count against the connection: its window comes on top.
    func windowAtMost(of stream: StreamState) -> UInt64 {
        guard stream.countsAgainstConnection else { return Constants.initialStreamWindow }
        let most = self.windowAtMost
        return min(Constants.maxStreamWindow, (most - min(most, self.receiveWindow.buffered)) / 2)
    }

    /// A shared window begins small and is raised as far as possible once a quarter of it is used, so that a peer that sends
    /// nothing is promised little. Asked when data has come and at every deadline, since other connections can free memory
    /// while this peer is silent.
    var shouldGrow: Bool {
        let (window, most) = (self.receiveWindow.window, self.maxWindow)
        return self.memory != nil && window < most && self.receiveWindow.unused < window - window / 4
            && self.windowAtMost >= min(most, window + window / 4)
    }

    /// False: the peer has exceeded its credit.
    mutating func receive(_ count: UInt64) -> Bool { self.receiveWindow.receive(count) }

    /// True: a new limit should be announced.
    mutating func consume(_ count: UInt64) -> Bool {
        self.receiveWindow.consume(count)
        self.memory?.promise(self.receiveWindow.promised)
        return self.receiveWindow.wantsUpdate
    }

    /// - Returns: the limit to announce now.
    mutating func announce() -> UInt64 {
        let limit = self.receiveWindow.follow(self.windowAtMost)
        self.memory?.promise(self.receiveWindow.promised)
        return limit
    }

    mutating func gapsChanged(by count: Int) { self.gapCount += count }

    // MARK: Ending

    /// All streams are gone, and so is what they kept.
    mutating func removeAll() {
        self.sendBuffered = 0
        self.gapCount = 0
        self.receiveWindow.consume(self.receiveWindow.buffered)
        self.leaveMemory()
    }

    /// What the connection used of the shared memory is free.
    mutating func leaveMemory() { self.memory = nil }
}
