public import NIOCore

/// The application's calls on streams. Unknown and finished streams are no error: a call on one does nothing.
extension Connection {
    /// Opens a stream; nil when the peer allows no more at the moment, or the connection is over.
    public mutating func openStream() -> StreamID? {
        self.isActive ? self.streams.open() : nil
    }

    /// How many bytes the application should write now. `write` takes more, but then the bounds on memory don't hold.
    public func writableBytes(_ id: StreamID) -> Int {
        guard let stream = self.streams.peek(id) else { return 0 }
        return self.room(for: stream)
    }

    /// A stream may hold a quarter of what is free unsent, so that a few streams whose peer reads nothing never take what all
    /// others need. The control stream has room of its own, so that control messages go out even while all other streams
    /// stand still.
    private func room(for stream: StreamState) -> Int {
        if stream.id == .control {
            return min(Constants.controlSendBuffer, self.configuration.sendBuffer) - stream.sendBuffer.buffered
        }
        let free = self.flow.sendBufferAtMost - self.flow.sendBuffered
        let share = min(Constants.unsentPerStream, max(Constants.unsentPerStreamAtLeast, free / 4))
        return min(share - stream.sendBuffer.unsent, free)
    }

    /// Queues bytes. False: the stream has no more room now; `.writable` reports when it has.
    @discardableResult
    public mutating func write(_ bytes: ByteBuffer, to id: StreamID) -> Bool {
        guard let stream = self.streams[id], stream.mayBeWritten else { return true }
        stream.sendBuffer.append(bytes)
        self.flow.sendBuffersChanged(by: bytes.readableBytes)
        self.queues.addFresh(stream)
        if self.room(for: stream) > 0 { return true }
        stream.wantsWritable = true
        if stream.sendBuffer.unsent == 0 { self.flow.waitForRoom() }
        return false
    }

    /// Ends our direction: a FIN follows the bytes written so far.
    public mutating func finish(_ id: StreamID) {
        guard let stream = self.streams[id], stream.mayBeWritten else { return }
        stream.finIsQueued = true
        self.queues.addFresh(stream)
    }

    /// Resets our direction. With `tcpReset`, bytes written before still go out, and the reset follows them; with any other
    /// code, bytes not yet sent are discarded. Does nothing once the peer has acknowledged everything.
    public mutating func reset(_ id: StreamID, _ code: StreamErrorCode) {
        guard let stream = self.streams[id], stream.resetSent == nil, !stream.isSendingDone else { return }
        if self.resetMustWait(stream, code) { return self.hold(stream, .resetStream) }
        self.resetSending(of: stream, code: code.rawValue)
    }

    mutating func resetSending(of stream: StreamState, code: UInt64) {
        stream.resetSent = (code, stream.sendBuffer.sentEnd)
        self.flow.sendBuffersChanged(by: -stream.sendBuffer.discard())
        self.queues.add(.resetStream, of: stream)
        stream.wantsWritable = false
        self.releaseHeld(stream)
    }

    /// Asks the peer to send no more: what still comes is discarded, and its credit returned. With `tcpReset`, the request
    /// follows the bytes written before, as the reset itself does, because the peer answers it by resetting its socket.
    public mutating func stopSending(_ id: StreamID, _ code: StreamErrorCode) {
        guard let stream = self.streams[id], stream.stopRequested == nil, !stream.isReceivingDone else {
            return
        }
        stream.stopRequested = code.rawValue
        self.flow.gapsChanged(by: -stream.receiveBuffer.discard())
        self.consumeAll(stream)
        // A peer that has already sent everything has nothing to stop.
        if stream.finalSize.map({ $0 > stream.receiveWindow.received }) ?? true {
            if self.resetMustWait(stream, code) {
                self.hold(stream, .stopSending)
            } else {
                self.queues.add(.stopSending, of: stream)
            }
        }
        self.forgetIfDone(stream)
    }

    /// Takes up to `count` bytes that came in order, and returns their credit to the peer. Bytes that came before a TCP reset
    /// can still be taken after the `.reset` event.
    public mutating func read(_ id: StreamID, atMost count: Int = .max) -> StreamRead {
        guard let stream = self.streams[id], !stream.isReceivingDone else { return .nothing }
        let count = stream.urgentToRead.isEmpty ? count : stream.countToTake(atMost: count)
        if let bytes = stream.receiveBuffer.take(atMost: count) {
            if !stream.urgentToRead.isEmpty { stream.urgentToRead.remove(below: stream.takenOffset) }
            self.consume(UInt64(bytes.readableBytes), of: stream)
            if stream.resetReceived != nil { self.forgetIfDone(stream) }
            return .bytes(bytes)
        }
        guard stream.finalSize == stream.receiveBuffer.next, stream.stopRequested == nil else { return .nothing }
        stream.endIsTaken = true
        self.forgetIfDone(stream)
        return .end
    }

    /// Whether `read` would return bytes.
    public func hasBytes(_ id: StreamID) -> Bool { (self.streams.peek(id)?.receiveBuffer.readyCount ?? 0) > 0 }

    /// Whether the peer has acknowledged all that was written, the FIN included.
    public func isAcknowledged(_ id: StreamID) -> Bool { self.streams.peek(id)?.isSendingDone ?? true }

    /// How much of what was written to the stream isn't sent yet, and how much the peer hasn't acknowledged, that included.
    public func backlog(_ id: StreamID) -> (unsent: Int, unacknowledged: Int) {
        guard let buffer = self.streams.peek(id)?.sendBuffer else { return (0, 0) }
        return (buffer.unsent, buffer.buffered)
    }

    /// Bytes of all streams that the peer hasn't acknowledged.
    public var unacknowledgedBytes: Int { self.flow.sendBuffered }

    /// No written bytes wait to be sent, except on streams whose own credit is used up: what is written now delays nothing.
    public var isIdle: Bool {
        let isControlWaiting = self.streams.control.map { $0.hasLostToSend || $0.hasFreshToSend } ?? false
        return !isControlWaiting && !self.queues.hasStreams && !self.queues.hasBlocked
            && self.datagrams.outgoing.isEmpty
    }

    /// Asks for `.writable` once bytes of the stream are sent, even if it has room now.
    public mutating func reportSending(_ id: StreamID) { self.streams[id]?.wantsWritable = true }

    /// The application is done with the stream, and its socket is closed: only now may the peer open another one (PROTOCOL,
    /// ends).
    public mutating func release(_ id: StreamID) {
        guard let stream = self.streams[id] else { return }
        stream.isReleased = true
        // Bytes that came before a reset and were not read are discarded.
        if stream.resetReceived != nil {
            self.flow.gapsChanged(by: -stream.receiveBuffer.discard())
            self.consumeAll(stream)
        }
        self.forgetIfDone(stream)
    }

    mutating func forgetIfDone(_ stream: StreamState) {
        guard stream.isDone, self.streams.remove(stream.id) else { return }
        self.flow.sendBuffersChanged(by: -stream.sendBuffer.discard())
        self.flow.gapsChanged(by: -stream.receiveBuffer.discard())
        guard stream.id.opener != self.role else { return }
        if self.streams.peerStreamIsDone() { self.queues.add(.maxStreams) }
    }

    // MARK: Room

    /// Called when bytes of the stream were sent, and for the control stream when they were acknowledged.
    mutating func signalWritable(_ stream: StreamState) {
        guard stream.wantsWritable else { return }
        guard self.room(for: stream) >= min(Constants.unsentPerStreamAtLeast, self.configuration.sendBuffer) / 2 else {
            // A stream with unsent bytes comes here again as they are sent. Without any it waits for room that other streams
            // free.
            if stream.sendBuffer.unsent == 0 { self.flow.waitForRoom() }
            return
        }
        stream.wantsWritable = false
        self.events.append(.writable(stream.id))
    }

    /// Called when the peer has acknowledged something.
    mutating func signalWritableAfterRoom() {
        guard self.flow.roomIsThere() else { return }
        // Sorted by id, since a dictionary's order is random: the same input must give the same events.
        let waiting = self.streams.values.filter(\.wantsWritable).sorted { $0.id < $1.id }
        for stream in waiting { self.signalWritable(stream) }
    }
}
