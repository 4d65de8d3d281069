import NIOCore

extension Connection {
    /// Takes the frames of a message that has opened. What breaks the protocol ends the connection.
    ///
    /// - Returns: how many there were.
    @discardableResult
    mutating func receive(
        frames: consuming ByteBuffer,
        number: UInt64,
        bytes: Int,
        over kind: CarrierKind = .stream,
        at now: Instant
    ) -> Int {
        self.statistics.messagesReceived += 1
        self.statistics.bytesReceived += UInt64(bytes)
        switch self.state {
        case .active: break
        case .closing:
            return self.receiveWhileClosing(&frames, at: now)
        case .closed: return 0
        }
        var count = 0
        var ackEliciting = false
        var hasAck = false
        do throws(TransportError) {
            while frames.readableBytes > 0, self.isActive {
                let frame = try Frame(reading: &frames)
                count += 1
                ackEliciting = ackEliciting || frame.isAckEliciting
                // Five bytes of an ACK can walk over all that is in flight, and one frame's ranges never meet.
                if case .ack = frame {
                    guard !hasAck else { throw TransportError(.protocolViolation, "two acknowledgements in a message") }
                    hasAck = true
                }
                try self.apply(frame, over: kind, at: now)
            }
        } catch {
            self.close(error.code, reason: "\(error.reason)", at: now)
            return count
        }
        // Acknowledged only now that all of it has been applied.
        guard self.isActive else { return count }
        self.received.receive(number, ackEliciting: ackEliciting, bytes: bytes, at: now)
        return count
    }

    /// RFC 9000 §10.2.1: more messages are answered with the same close, but not each of them.
    private mutating func receiveWhileClosing(_ frames: inout ByteBuffer, at now: Instant) -> Int {
        var count = 0
        while frames.readableBytes > 0, let frame = try? Frame(reading: &frames) {
            count += 1
            if case .connectionClose = frame {
                self.wipe()
                return count
            }
        }
        if let closeSentAt, now < closeSentAt + self.roundTripTime.probeTimeout { return count }
        self.closeIsPending = true
        return count
    }

    private mutating func apply(_ frame: Frame, over kind: CarrierKind, at now: Instant) throws(TransportError) {
        switch frame {
        case .padding, .blocked: break
        // Who asks waits for the answer, and measures by it: an idle peer has no other samples.
        case .ping: if kind == .datagrams { self.received.ackSoon() }
        case .ack(let ack): try self.receiveAck(ack, at: now)
        case .stream(let id, let offset, let data, let fin):
            try self.receiveStream(id, offset: offset, data: data, fin: fin)
        case .urgentStream(let id, let offset, let data, let fin):
            try self.receiveUrgentStream(id, offset: offset, data: data, fin: fin)
        case .resetStream(let id, let code, let finalSize):
            try self.receiveReset(id, code: code, finalSize: finalSize)
        case .stopSending(let id, let code): try self.receiveStopSending(id, code: code)
        case .maxData(let limit):
            if self.sendCredit.raise(to: limit) { self.queueBlocked() }
        case .maxStreamData(let id, let limit):
            guard let stream = try self.stream(addressedByPeer: id) else { return }
            if stream.sendCredit.raise(to: limit) { self.queueFresh(stream) }
        case .maxStreams(let limit): self.localStreamLimit = max(self.localStreamLimit, limit)
        case .connectionClose(let code, var reason):
            let text = reason.readString(length: min(reason.readableBytes, 256)) ?? ""
            self.end(ConnectionEnd(code: ErrorCode(rawValue: code), origin: .peer, reason: text), at: now)
        // They belong to paths of datagrams, and byte streams have none.
        case .pathChallenge, .pathResponse: if kind == .datagrams { self.receivePathFrame(frame) }
        case .datagram(let payload, let frameSize): try self.receiveDatagram(payload, frameSize: frameSize)
        }
    }

    /// The stream that a frame names; nil if it has been and gone. Opens what the peer may open (RFC 9000 §3.2).
    private mutating func stream(addressedByPeer id: StreamID) throws(TransportError) -> StreamState? {
        if let stream = self.streams[id] { return stream }
        guard !id.isUnidirectional else {
            throw TransportError(.streamStateError, "a unidirectional stream")
        }
        if id.opener == self.role {
            guard id.index < self.localNextIndex else {
                throw TransportError(.streamStateError, "a stream of ours that we did not open")
            }
            return nil
        }
        guard id.index < self.peerStreamLimit else {
            throw TransportError(.streamLimitError, "more streams than were allowed")
        }
        guard id.index >= self.peerNextIndex else { return nil }
        // A stream opens all before it: RFC 9000 §2.1. The limit bounds the loop.
        while self.peerNextIndex <= id.index {
            let opened = StreamID(index: self.peerNextIndex, openedBy: id.opener)
            self.peerNextIndex += 1
            self.insertStream(opened)
            self.events.append(.streamOpened(opened))
        }
        return self.streams[id]
    }

    mutating func receiveStream(
        _ id: StreamID,
        offset: UInt64,
        data: ByteBuffer,
        fin: Bool
    ) throws(TransportError) {
        guard let stream = try self.stream(addressedByPeer: id) else { return }
        let end = offset + UInt64(data.readableBytes)
        if fin {
            if id == .control { throw TransportError(.controlError, "the control stream's end") }
            try self.setFinalSize(end, of: stream)
        } else if let finalSize = stream.finalSize, end > finalSize {
            throw TransportError(.finalSizeError, "bytes beyond a stream's end")
        }
        try self.count(upTo: end, of: stream)
        if stream.resetReceived != nil || stream.stopRequested != nil {
            self.consumeAll(stream)
            self.forgetIfDone(stream)
            return
        }
        let hasRoom = self.receiveWindow.buffered <= Constants.bulkRoomBelow
        self.gapCount += stream.receiveBuffer.insert(data, at: offset, hasRoom: hasRoom)
        guard stream.receiveBuffer.gapCount <= Constants.gapsPerStream,
            self.gapCount <= Constants.gapsPerConnection
        else { throw TransportError(.internalError, "more gaps than are kept") }
        if stream.receiveBuffer.gapCount > 0, !stream.isReadable, stream.finalSize == nil,
            stream.receiveWindow.growPastGaps(windowAtMost: self.streamWindowAtMost(stream))
        {
            self.queueControl(stream, .maxStreamData)
        }
        self.signalReadable(stream)
    }

    /// No stream grows to where a few that stand still would take what all share. The control stream takes no credit from
    /// the connection: what it may hold is added to that.
    func streamWindowAtMost(_ stream: StreamState) -> UInt64 {
        guard stream.countsAgainstConnection else { return Constants.initialStreamWindow }
        let most = self.windowAtMost
        return min(Constants.maxStreamWindow, (most - min(most, self.receiveWindow.buffered)) / 2)
    }

    /// The window of all streams together: what a connection may have, or what others leave of what they share with it.
    var windowAtMost: UInt64 {
        let most = self.configuration.maxConnectionWindow
        return self.memory.map { min(most, $0.mayPromise) } ?? most
    }

    /// A shared window begins small, and is as great as may be once a quarter of it is in use: who sends nothing is promised
    /// nothing. Called when something has come, and from time to time, since others make room without a word of this peer's.
    mutating func growIfUsed() {
        let (window, most) = (self.receiveWindow.window, self.configuration.maxConnectionWindow)
        guard self.memory != nil, window < most, self.receiveWindow.unused < window - window / 4,
            self.windowAtMost >= min(most, window + window / 4)
        else { return }
        self.pendingControl.insert(.maxData)
    }

    /// RFC 9000 §4.5: once known, a stream's size never changes, and is no less than what has come.
    private func setFinalSize(_ size: UInt64, of stream: StreamState) throws(TransportError) {
        if let known = stream.finalSize, known != size {
            throw TransportError(.finalSizeError, "a second, different end of a stream")
        }
        guard size >= stream.receiveWindow.received else {
            throw TransportError(.finalSizeError, "a stream's end before bytes that have come")
        }
        stream.finalSize = size
    }

    /// Counts new bytes against the stream's and the connection's credit (RFC 9000 §4.1).
    private mutating func count(upTo end: UInt64, of stream: StreamState) throws(TransportError) {
        guard end > stream.receiveWindow.received else { return }
        let new = end - stream.receiveWindow.received
        guard stream.receiveWindow.receive(new),
            !stream.countsAgainstConnection || self.receiveWindow.receive(new)
        else { throw TransportError(.flowControlError, "more bytes than there was credit for") }
        self.growIfUsed()
    }

    private mutating func receiveReset(_ id: StreamID, code: UInt64, finalSize: UInt64) throws(TransportError) {
        guard let stream = try self.stream(addressedByPeer: id) else { return }
        if id == .control { throw TransportError(.controlError, "a reset of the control stream") }
        try self.setFinalSize(finalSize, of: stream)
        try self.count(upTo: finalSize, of: stream)
        guard stream.resetReceived == nil, !stream.endIsTaken else { return }
        stream.resetReceived = code
        // In TCP a reset doesn't overtake what was received before it. Bytes beyond a gap never become part of that.
        if code == StreamErrorCode.tcpReset.rawValue {
            self.gapCount -= stream.receiveBuffer.discardBeyondGaps()
        } else {
            self.gapCount -= stream.receiveBuffer.discard()
        }
        self.consumeAll(stream)
        if stream.stopRequested == nil { self.events.append(.reset(id, StreamErrorCode(rawValue: code))) }
        self.forgetIfDone(stream)
    }

    private mutating func receiveStopSending(_ id: StreamID, code: UInt64) throws(TransportError) {
        guard let stream = try self.stream(addressedByPeer: id) else { return }
        if id == .control { throw TransportError(.controlError, "a stop of the control stream") }
        guard stream.resetSent == nil, !stream.isSendingDone else { return }
        // RFC 9000 §3.5: answered by a reset with the same code.
        self.resetSending(of: stream, code: code)
        self.events.append(.stopped(id, StreamErrorCode(rawValue: code)))
    }

    func shouldAnnounceStreamCredit(_ stream: StreamState) -> Bool {
        stream.receiveWindow.wantsUpdate && stream.finalSize == nil && stream.stopRequested == nil
    }

    /// Gives back the credit of all that has come and will not be read.
    mutating func consumeAll(_ stream: StreamState) {
        self.consume(stream.receiveWindow.buffered - UInt64(stream.receiveBuffer.readyCount), of: stream)
    }

    mutating func consume(_ count: UInt64, of stream: StreamState) {
        stream.receiveWindow.consume(count)
        if stream.countsAgainstConnection {
            self.receiveWindow.consume(count)
            self.memory?.promise(self.receiveWindow.promised)
            if self.receiveWindow.wantsUpdate { self.pendingControl.insert(.maxData) }
        }
        // While discarding, the stream's own credit goes on too, or its sender would never reach its end.
        if stream.receiveWindow.wantsUpdate, stream.finalSize == nil { self.queueControl(stream, .maxStreamData) }
    }

    private mutating func signalReadable(_ stream: StreamState) {
        guard stream.isReadable, !stream.readableIsSignalled else { return }
        stream.readableIsSignalled = true
        self.events.append(.readable(stream.id))
    }
}
