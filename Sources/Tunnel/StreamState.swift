import NIOCore

/// One stream: both directions, each a state machine of RFC 9000 §3.
///
/// ```
///   sending:   ready ── FIN queued ──▶ FIN sent ── all acknowledged ──▶ done
///                └──────── reset ──▶ reset sent ── acknowledged ───────▶ done
///   receiving: open ── final size known ──▶ all taken ─────────────────▶ done
///                └──────── reset received, or we asked to stop ────────▶ done
/// ```
///
/// A class, so that the table's entries change in place; it never leaves the connection.
final class StreamState {
    let id: StreamID

    // Sending
    var sendBuffer = SendBuffer()
    var sendCredit: SendCredit
    var finIsQueued = false
    var finIsSent = false
    var finIsAcknowledged = false
    /// Code and final size, once this direction was reset.
    var resetSent: (code: UInt64, finalSize: UInt64)?
    var resetIsAcknowledged = false

    // Receiving
    var receiveBuffer = ReceiveBuffer()
    var receiveWindow: ReceiveWindow
    var finalSize: UInt64?
    var resetReceived: UInt64?
    /// Code, once we asked the peer to stop: what still comes is counted and thrown away.
    var stopRequested: UInt64?
    var endIsTaken = false

    // What waits to be done
    var pendingControl: StreamControlFrames = []
    var isInControlQueue = false
    var isInLostQueue = false
    /// Or in the queue of those that wait for the connection's credit.
    var isInFreshQueue = false
    var readableIsSignalled = false
    var wantsWritable = false
    var isReleased = false

    init(id: StreamID, sendCredit: UInt64, receiveWindow: UInt64) {
        self.id = id
        self.sendCredit = SendCredit(limit: sendCredit)
        self.receiveWindow = ReceiveWindow(window: receiveWindow)
    }

    var countsAgainstConnection: Bool { self.id != .control }

    var isSendingDone: Bool {
        self.resetSent == nil ? self.finIsAcknowledged && self.sendBuffer.isAllAcknowledged : self.resetIsAcknowledged
    }

    var isReceivingDone: Bool {
        if self.endIsTaken || self.resetReceived != nil { return true }
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
        if self.endIsTaken || self.resetReceived != nil || self.stopRequested != nil { return false }
        return self.receiveBuffer.readyCount > 0 || self.finalSize == self.receiveBuffer.next
    }
}
