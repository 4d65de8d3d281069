import NIOCore

/// A TCP reset must not overtake the bytes that were received before it: RESET_STREAM and STOP_SENDING with the code
/// `tcpReset` are held until the peer has acknowledged all that was written to the stream (PROTOCOL, ends).
///
/// ```
///   open ── reset or stop, something unacknowledged ──▶ held ── all acknowledged ──────▶ sent
///                                                        ├──── 10 s without progress ──▶ sent, the rest is discarded
///                                                        └──── another code, or STOP_SENDING of the peer ──▶ sent, likewise
/// ```
///
/// These are the streams that hold something, and when their progress is checked next.
struct HeldResets {
    private var streams: [StreamID] = []
    private var checkAt: Instant?

    var count: Int { self.streams.count }

    mutating func add(_ id: StreamID) { self.streams.append(id) }

    /// `add` is not told the time: its first deadline is past, so that `due` is asked at once and sets a time for the check.
    func deadline(past: Instant) -> Instant? { self.streams.isEmpty ? nil : self.checkAt ?? past }

    /// The streams to check now, once a second.
    mutating func due(at now: Instant) -> [StreamID] {
        guard !self.streams.isEmpty else { return [] }
        if let checkAt, now < checkAt { return [] }
        defer { self.checkAt = now + Constants.heldCheckInterval }
        return self.checkAt == nil ? [] : self.streams
    }

    /// All were checked, and these go on holding.
    mutating func checked(goOn streams: [StreamID]) {
        self.streams = streams
        if streams.isEmpty { self.checkAt = nil }
    }
}

extension Connection {
    /// Whether a reset of this stream has to wait for bytes, or for an end, that the peer doesn't have yet.
    ///
    /// A client that resets its connection leaves bytes here, but no socket. Clients that connect and reset while the peer
    /// reads nothing would fill the memory, so beyond a bound the reset goes out at once and these bytes are discarded.
    func resetMustWait(_ stream: StreamState, _ code: StreamErrorCode) -> Bool {
        code == .tcpReset && stream.resetSent == nil && !stream.isSendingDone
            && (stream.sendBuffer.buffered > 0 || stream.finIsQueued)
            && self.flow.sendBuffered <= Constants.heldWithin * self.flow.sendBufferAtMost
    }

    mutating func hold(_ stream: StreamState, _ frames: StreamControlFrames) {
        if stream.held.isEmpty {
            stream.heldProgress = (acknowledged: stream.sendBuffer.base, checks: 0)
            self.heldResets.add(stream.id)
        }
        stream.held.formUnion(frames)
    }

    /// Called when the peer has acknowledged bytes or the end of a stream that holds something back.
    mutating func releaseIfAcknowledged(_ stream: StreamState) {
        guard stream.sendBuffer.isAllAcknowledged, !stream.finIsQueued || stream.finIsAcknowledged else { return }
        self.releaseHeld(stream)
    }

    /// Sends the held frames, even if some of the stream is still unacknowledged.
    mutating func releaseHeld(_ stream: StreamState) {
        let frames = stream.held
        stream.held = []
        if frames.contains(.resetStream), stream.resetSent == nil, !stream.isSendingDone {
            self.resetSending(of: stream, code: StreamErrorCode.tcpReset.rawValue)
        }
        if frames.contains(.stopSending), !stream.isReceivingDone { self.queues.add(.stopSending, of: stream) }
    }

    var heldDeadline: Instant? { self.heldResets.deadline(past: self.liveness.aliveAt) }

    /// Called only while there is a carrier: without one no byte can move, and `linger` bounds the wait.
    mutating func checkHeld(at now: Instant) {
        let due = self.heldResets.due(at: now)
        guard !due.isEmpty else { return }
        let remaining = due.filter { self.goesOnHolding($0) }
        self.heldResets.checked(goOn: remaining)
    }

    /// Checks one stream. False: it holds nothing back any more.
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
