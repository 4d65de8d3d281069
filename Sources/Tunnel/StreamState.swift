import NIOCore

/// One stream: both directions, each a state machine of RFC 9000 §3.
///
/// ```
///   sending:   ready ── FIN queued ──▶ FIN sent ── all acknowledged ──▶ done
///                └──────── reset ──▶ reset sent ── acknowledged ───────▶ done
///   receiving: open ── final size known ──▶ all taken ─────────────────▶ done
///                ├──────── TCP reset received ──▶ what came is taken ──▶ done
///                └──────── any other reset, or we asked to stop ───────▶ done
/// ```
///
/// A class, so that the table's entries change in place. It never leaves the connection, which is worked with by one caller
/// at a time: so its properties are too, and need no check of it at each access, which for each message would be thirty.
final class StreamState {
    let id: StreamID

    // Sending
    @exclusivity(unchecked) var sendBuffer = SendBuffer()
    @exclusivity(unchecked) var sendCredit: SendCredit
    @exclusivity(unchecked) var finIsQueued = false
    @exclusivity(unchecked) var finIsSent = false
    @exclusivity(unchecked) var finIsAcknowledged = false
    /// Code and final size, once this direction was reset.
    @exclusivity(unchecked) var resetSent: (code: UInt64, finalSize: UInt64)?
    @exclusivity(unchecked) var resetIsAcknowledged = false
    /// Frames that stand for a TCP reset and wait until all that was written is acknowledged; and how far that was when it was
    /// last looked at, and how often in a row nothing had changed.
    @exclusivity(unchecked) var held: StreamControlFrames = []
    @exclusivity(unchecked) var heldProgress: (acknowledged: UInt64, checks: Int) = (0, 0)
    /// Urgent bytes that aren't acknowledged.
    @exclusivity(unchecked) var urgentToSend = UrgentMarks()

    // Receiving
    @exclusivity(unchecked) var receiveBuffer = ReceiveBuffer()
    @exclusivity(unchecked) var receiveWindow: ReceiveWindow
    @exclusivity(unchecked) var finalSize: UInt64?
    /// Code. What came before a TCP reset stays until it is taken.
    @exclusivity(unchecked) var resetReceived: UInt64?
    /// Code, once we asked the peer to stop: what still comes is counted and thrown away.
    @exclusivity(unchecked) var stopRequested: UInt64?
    @exclusivity(unchecked) var endIsTaken = false
    /// Urgent bytes that aren't taken.
    @exclusivity(unchecked) var urgentToRead = UrgentMarks()

    // What waits to be done
    @exclusivity(unchecked) var pendingControl: StreamControlFrames = []
    @exclusivity(unchecked) var isInControlQueue = false
    @exclusivity(unchecked) var isInLostQueue = false
    /// Or in the queue of those that wait for the connection's credit.
    @exclusivity(unchecked) var isInFreshQueue = false
    @exclusivity(unchecked) var readableIsSignalled = false
    @exclusivity(unchecked) var wantsWritable = false
    @exclusivity(unchecked) var isReleased = false

    init(id: StreamID, sendCredit: UInt64, receiveWindow: UInt64) {
        self.id = id
        self.sendCredit = SendCredit(limit: sendCredit)
        self.receiveWindow = ReceiveWindow(window: receiveWindow)
    }

    var countsAgainstConnection: Bool { self.id != .control }

    var mayBeWritten: Bool { self.resetSent == nil && !self.finIsQueued && !self.held.contains(.resetStream) }

    var isSendingDone: Bool {
        self.resetSent == nil ? self.finIsAcknowledged && self.sendBuffer.isAllAcknowledged : self.resetIsAcknowledged
    }

    var isReceivingDone: Bool {
        if self.endIsTaken { return true }
        if self.resetReceived != nil { return self.receiveBuffer.readyCount == 0 }
        // What we asked the peer to stop ends when we know its size, as far as connection credit is concerned.
        return self.stopRequested != nil && self.finalSize.map { self.receiveWindow.received >= $0 } ?? false
    }

    var isDone: Bool { self.isReleased && self.isSendingDone && self.isReceivingDone }

    var hasLostToSend: Bool { self.resetSent == nil && self.sendBuffer.hasLost }

    /// Whether there is something never sent before that the stream's own credit allows. A bare FIN needs none.
    var hasFreshToSend: Bool {
        guard self.resetSent == nil else { return false }
        if self.sendBuffer.unsent > 0 { return self.sendCredit.available > 0 }
        return self.finIsQueued && !self.finIsSent
    }

    var needsConnectionCredit: Bool { self.countsAgainstConnection && self.sendBuffer.unsent > 0 }

    var isReadable: Bool {
        if self.endIsTaken || self.stopRequested != nil { return false }
        return self.receiveBuffer.readyCount > 0 || self.finalSize == self.receiveBuffer.next
    }
}
