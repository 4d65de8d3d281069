public import NIOCore

/// What the application does with streams. Unknown or finished streams are no error: the answer is "nothing".
extension Connection {
    /// Opens a stream; nil when the peer allows no more at the moment, or the connection is over.
    public mutating func openStream() -> StreamID? {
        guard self.isActive, self.localNextIndex < self.localStreamLimit else { return nil }
        let id = StreamID(index: self.localNextIndex, openedBy: self.role)
        self.localNextIndex += 1
        self.insertStream(id)
        return id
    }

    mutating func insertStream(_ id: StreamID) {
        let stream = StreamState(
            id: id,
            sendCredit: self.peerInitialMaxStreamData,
            receiveWindow: Constants.initialStreamWindow
        )
        self.streams.insert(stream)
        if id == .control { self.controlStream = stream }
    }

    /// How many bytes the stream takes now before it should be left alone. It takes more, but then memory is the caller's.
    public func writableBytes(_ id: StreamID) -> Int {
        guard let stream = self.streams.peek(id) else { return 0 }
        return self.room(for: stream)
    }

    /// A stream may keep a share of what is free. So a few that stand still never take what all others need. The control stream
    /// has room of its own: who is to be told to stop has to hear that also where all others stand still.
    private func room(for stream: StreamState) -> Int {
        if stream.id == .control {
            return min(Constants.controlSendBuffer, self.configuration.sendBuffer) - stream.sendBuffer.buffered
        }
        let free = self.sendBufferAtMost - self.sendBuffered
        let share = min(Constants.unsentPerStream, max(Constants.unsentPerStreamAtLeast, free / 4))
        return min(share - stream.sendBuffer.unsent, free)
    }

    /// For all streams: what a connection may have, or what others leave of what they share with it.
    var sendBufferAtMost: Int {
        let most = self.configuration.sendBuffer
        return self.memory.map { min(most, Int(clamping: $0.mayKeep)) } ?? most
    }

    /// Queues bytes. False: there is no more room now, and `.writable` will tell when there is.
    @discardableResult
    public mutating func write(_ bytes: ByteBuffer, to id: StreamID) -> Bool {
        guard let stream = self.streams[id], stream.mayBeWritten else { return true }
        stream.sendBuffer.append(bytes)
        self.sendBuffered += bytes.readableBytes
        self.queueFresh(stream)
        if self.room(for: stream) > 0 { return true }
        stream.wantsWritable = true
        if stream.sendBuffer.unsent == 0 { self.someWaitForRoom = true }
        return false
    }

    /// No byte follows.
    public mutating func finish(_ id: StreamID) {
        guard let stream = self.streams[id], stream.mayBeWritten else { return }
        stream.finIsQueued = true
        self.queueFresh(stream)
    }

    /// Gives up our direction. What was written before a TCP reset still goes out, and the reset behind it; with any other code
    /// what is not yet sent never will be. Does nothing once the peer has all of it.
    public mutating func reset(_ id: StreamID, _ code: StreamErrorCode) {
        guard let stream = self.streams[id], stream.resetSent == nil, !stream.isSendingDone else { return }
        if self.resetMustWait(stream, code) { return self.hold(stream, .resetStream) }
        self.resetSending(of: stream, code: code.rawValue)
    }

    mutating func resetSending(of stream: StreamState, code: UInt64) {
        stream.resetSent = (code, stream.sendBuffer.sentEnd)
        self.sendBuffered -= stream.sendBuffer.discard()
        self.queueControl(stream, .resetStream)
        stream.wantsWritable = false
        self.releaseHeld(stream)
    }

    /// Asks the peer to send no more: what still comes is thrown away, and its credit given back. The request for a TCP reset
    /// goes out behind what was written, as the reset itself does: the peer answers it by a reset of its socket.
    public mutating func stopSending(_ id: StreamID, _ code: StreamErrorCode) {
        guard let stream = self.streams[id], stream.stopRequested == nil, !stream.isReceivingDone else {
            return
        }
        stream.stopRequested = code.rawValue
        self.gapCount -= stream.receiveBuffer.discard()
        self.consumeAll(stream)
        // A peer that has sent its end already has nothing to stop.
        if stream.finalSize.map({ $0 > stream.receiveWindow.received }) ?? true {
            if self.resetMustWait(stream, code) {
                self.hold(stream, .stopSending)
            } else {
                self.queueControl(stream, .stopSending)
            }
        }
        self.forgetIfDone(stream)
    }

    /// Takes what has come in order, at most so many bytes, and gives its credit back to the peer. What came before a TCP reset
    /// can still be taken after the event that tells of it.
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

    /// Whether there are bytes that `read` would give.
    public func hasBytes(_ id: StreamID) -> Bool { (self.streams.peek(id)?.receiveBuffer.readyCount ?? 0) > 0 }

    /// Whether everything written has been acknowledged, the end included.
    public func isAcknowledged(_ id: StreamID) -> Bool { self.streams.peek(id)?.isSendingDone ?? true }

    /// The application is done with it, its socket closed: only now does the peer get credit for another (PROTOCOL).
    public mutating func release(_ id: StreamID) {
        guard let stream = self.streams[id] else { return }
        stream.isReleased = true
        // What came before a reset and wasn't taken until now never will be.
        if stream.resetReceived != nil {
            self.gapCount -= stream.receiveBuffer.discard()
            self.consumeAll(stream)
        }
        self.forgetIfDone(stream)
    }

    mutating func forgetIfDone(_ stream: StreamState) {
        guard stream.isDone, self.streams.remove(stream.id) else { return }
        self.sendBuffered -= stream.sendBuffer.discard()
        self.gapCount -= stream.receiveBuffer.discard()
        guard stream.id.opener != self.role else { return }
        self.peerStreamsDone += 1
        let limit = self.peerStreamsDone + self.configuration.maxStreamsFromPeer
        // Told in steps of an eighth, not for each.
        if limit >= self.peerStreamLimit + max(1, self.configuration.maxStreamsFromPeer / 8) {
            self.peerStreamLimit = limit
            self.pendingControl.insert(.maxStreams)
        }
    }

    // MARK: Room

    /// Called when some of the stream's own bytes went out; of the control stream, when they were acknowledged.
    mutating func signalWritable(_ stream: StreamState) {
        guard stream.wantsWritable else { return }
        guard self.room(for: stream) >= min(Constants.unsentPerStreamAtLeast, self.configuration.sendBuffer) / 2 else {
            // Its own bytes bring it here again as they go out. With none left it is the room of all that it waits for.
            if stream.sendBuffer.unsent == 0 { self.someWaitForRoom = true }
            return
        }
        stream.wantsWritable = false
        self.events.append(.writable(stream.id))
    }

    /// Called when the peer has acknowledged something.
    mutating func signalWritableAfterRoom() {
        guard self.someWaitForRoom, self.sendBuffered <= self.sendBufferAtMost / 4 * 3 else { return }
        self.someWaitForRoom = false
        // In the order of their numbers: what happens here follows from what was handed in, and from nothing else.
        let waiting = self.streams.values.filter(\.wantsWritable).sorted { $0.id < $1.id }
        for stream in waiting { self.signalWritable(stream) }
    }
}
