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
/// A class, so that the table's entries change in place. Exclusivity checks are off for its properties, which would cost
/// thirty checks for each message: the stream never leaves its connection, which one caller uses at a time.
final class StreamState {
    let id: StreamID

    // Sending
    @exclusivity(unchecked) var sendBuffer = SendBuffer()
    @exclusivity(unchecked) var sendCredit: SendCredit
    @exclusivity(unchecked) var finIsQueued = false
    @exclusivity(unchecked) var finIsSent = false
    @exclusivity(unchecked) var finIsAcknowledged = false
    /// Code and final size, once we have reset this direction.
    @exclusivity(unchecked) var resetSent: (code: UInt64, finalSize: UInt64)?
    @exclusivity(unchecked) var resetIsAcknowledged = false
    /// Frames for a TCP reset that are held until all that was written is acknowledged; and the offset up to which that was
    /// so at the last check, with the number of checks in a row that found no progress.
    @exclusivity(unchecked) var held: StreamControlFrames = []
    @exclusivity(unchecked) var heldProgress: (acknowledged: UInt64, checks: Int) = (0, 0)
    /// Urgent bytes that are not acknowledged yet.
    @exclusivity(unchecked) var urgentToSend = UrgentMarks()

    // Receiving
    @exclusivity(unchecked) var receiveBuffer = ReceiveBuffer()
    @exclusivity(unchecked) var receiveWindow: ReceiveWindow
    @exclusivity(unchecked) var finalSize: UInt64?
    /// The code. Bytes that came before a TCP reset stay until they are read.
    @exclusivity(unchecked) var resetReceived: UInt64?
    /// The code, once we have asked the peer to stop: what still comes is counted and discarded.
    @exclusivity(unchecked) var stopRequested: UInt64?
    @exclusivity(unchecked) var endIsTaken = false
    /// Urgent bytes that were not read yet.
    @exclusivity(unchecked) var urgentToRead = UrgentMarks()

    // Queues and signals
    @exclusivity(unchecked) var queueMarks = SendQueues.Marks()
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
        // After STOP_SENDING the direction is done once all bytes up to the final size have been counted against the
        // connection's credit.
        return self.stopRequested != nil && self.finalSize.map { self.receiveWindow.received >= $0 } ?? false
    }

    var isDone: Bool { self.isReleased && self.isSendingDone && self.isReceivingDone }

    var hasLostToSend: Bool { self.resetSent == nil && self.sendBuffer.hasLost }

    /// Whether the stream has fresh data that its own credit allows, or a FIN, which needs no credit.
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
