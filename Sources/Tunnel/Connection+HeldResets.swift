import NIOCore

/// TCP's reset comes behind the bytes that were received before it: RESET_STREAM and STOP_SENDING with the code that stands
/// for it wait until the peer has acknowledged all that was written (PROTOCOL, ends).
///
/// ```
///   open ── reset or stop, something unacknowledged ──▶ held ── all acknowledged ──────▶ sent
///                                                        ├──── 10 s without progress ──▶ sent, the rest is discarded
///                                                        └──── another code, or STOP_SENDING of the peer ──▶ sent, likewise
/// ```
extension Connection {
    /// Whether a reset of this stream has to wait for bytes, or for an end, that the peer doesn't have yet.
    ///
    /// Whoever is reset leaves bytes here and no socket, so that clients that come and go in front of a peer that takes nothing
    /// would fill the memory: beyond a bound what they have said goes with them.
    func resetMustWait(_ stream: StreamState, _ code: StreamErrorCode) -> Bool {
        code == .tcpReset && stream.resetSent == nil && !stream.isSendingDone
            && (stream.sendBuffer.buffered > 0 || stream.finIsQueued)
            && self.sendBuffered <= Constants.heldWithin * self.sendBufferAtMost
    }

    mutating func hold(_ stream: StreamState, _ frames: StreamControlFrames) {
        if stream.held.isEmpty {
            stream.heldProgress = (acknowledged: stream.sendBuffer.base, checks: 0)
            self.heldStreams.append(stream.id)
        }
        stream.held.formUnion(frames)
    }

    /// Called when the peer has acknowledged bytes or the end of a stream that holds something back.
    mutating func releaseIfAcknowledged(_ stream: StreamState) {
        guard stream.sendBuffer.isAllAcknowledged, !stream.finIsQueued || stream.finIsAcknowledged else { return }
        self.releaseHeld(stream)
    }

    /// Sends what was held back, whatever of the stream is still unacknowledged.
    mutating func releaseHeld(_ stream: StreamState) {
        let frames = stream.held
        stream.held = []
        if frames.contains(.resetStream), stream.resetSent == nil, !stream.isSendingDone {
            self.resetSending(of: stream, code: StreamErrorCode.tcpReset.rawValue)
        }
        if frames.contains(.stopSending), !stream.isReceivingDone { self.queueControl(stream, .stopSending) }
    }

    var heldDeadline: Instant? {
        // A stream has come since the last check: the next one is counted from when time is handed in.
        self.heldStreams.isEmpty ? nil : self.heldCheckAt ?? self.aliveAt
    }

    /// Looks once a second for streams that have made no progress. Only while there is a carrier: without one no byte can
    /// move, and the time for that is `linger`.
    mutating func checkHeld(at now: Instant) {
        guard !self.heldStreams.isEmpty else { return }
        if let heldCheckAt, now < heldCheckAt { return }
        let isFirst = self.heldCheckAt == nil
        self.heldCheckAt = now + Constants.heldCheckInterval
        if isFirst { return }
        let held = self.heldStreams
        self.heldStreams.removeAll()
        for id in held where self.goesOnHolding(id) { self.heldStreams.append(id) }
        if self.heldStreams.isEmpty { self.heldCheckAt = nil }
    }

    /// One check of one stream.
    private mutating func goesOnHolding(_ id: StreamID) -> Bool {
        guard let stream = self.streams[id], !stream.held.isEmpty else { return false }
        guard stream.sendBuffer.base == stream.heldProgress.acknowledged else {
            stream.heldProgress = (acknowledged: stream.sendBuffer.base, checks: 0)
            return true
        }
        stream.heldProgress.checks += 1
        guard stream.heldProgress.checks >= Constants.heldChecks else { return true }
        self.statistics.resetsForced += 1
        self.releaseHeld(stream)
        return false
    }
}
