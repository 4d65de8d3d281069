import NIOCore

extension Connection {
    /// Applies the frames of an opened message. A frame that breaks the protocol closes the connection.
    ///
    /// - Returns: how many frames were read.
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
        case .closing(let closing):
            return self.receive(&frames, during: closing, at: now)
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
                // Five bytes of ACK can make us walk over everything in flight. Ranges within one frame never overlap, so one
                // ACK frame in a message bounds that work.
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
        // Recorded for acknowledgement only now that all frames have been applied.
        guard self.isActive else { return count }
        self.received.receive(number, ackEliciting: ackEliciting, bytes: bytes, at: now)
        return count
    }

    private mutating func receive(_ frames: inout ByteBuffer, during closing: Closing, at now: Instant) -> Int {
        var count = 0
        while frames.readableBytes > 0, let frame = try? Frame(reading: &frames) {
            count += 1
            if case .connectionClose = frame {
                self.wipe()
                return count
            }
        }
        var closing = closing
        closing.received(at: now, probeTimeout: self.roundTripTime.probeTimeout)
        self.state = .closing(closing)
        return count
    }

    private mutating func apply(_ frame: Frame, over kind: CarrierKind, at now: Instant) throws(TransportError) {
        switch frame {
        case .padding, .blocked: break
        // A PING is acknowledged at once: its sender may wait for the answer, and an idle peer has no other round-trip
        // samples.
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
            if self.flow.raiseCredit(to: limit) { self.queues.unblock() }
        case .maxStreamData(let id, let limit):
            guard let stream = try self.stream(addressedByPeer: id) else { return }
            if stream.sendCredit.raise(to: limit) { self.queues.addFresh(stream) }
        case .maxStreams(let limit): self.streams.raiseLimit(to: limit)
        case .connectionClose(let code, var reason):
            let text = reason.readString(length: min(reason.readableBytes, 256)) ?? ""
            self.end(ConnectionEnd(code: ErrorCode(rawValue: code), origin: .peer, reason: text), at: now)
        // Path validation belongs to datagrams; on a byte stream these frames are ignored.
        case .pathChallenge, .pathResponse: if kind == .datagrams { self.receivePathFrame(frame) }
        case .datagram(let payload, let frameSize): try self.receiveDatagram(payload, frameSize: frameSize)
        }
    }

    /// The stream that a frame names, opened if the peer may open it (RFC 9000 §3.2); nil if it is finished and forgotten.
    private mutating func stream(addressedByPeer id: StreamID) throws(TransportError) -> StreamState? {
        if let stream = self.streams[id] { return stream }
        try self.streams.openByPeer(id) { self.events.append(.streamOpened($0)) }
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
        let hasRoom = self.flow.receiveWindow.buffered <= Constants.bulkRoomBelow
        self.flow.gapsChanged(by: stream.receiveBuffer.insert(data, at: offset, hasRoom: hasRoom))
        guard stream.receiveBuffer.gapCount <= Constants.gapsPerStream,
            self.flow.gapCount <= Constants.gapsPerConnection
        else { throw TransportError(.internalError, "more gaps than are kept") }
        if stream.receiveBuffer.gapCount > 0, !stream.isReadable, stream.finalSize == nil,
            stream.receiveWindow.growPastGaps(windowAtMost: self.flow.windowAtMost(of: stream))
        {
            self.queues.add(.maxStreamData, of: stream)
        }
        self.signalReadable(stream)
    }

    /// RFC 9000 §4.5: a stream's final size never changes, and is not below what was received.
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
            !stream.countsAgainstConnection || self.flow.receive(new)
        else { throw TransportError(.flowControlError, "more bytes than there was credit for") }
        if self.flow.shouldGrow { self.queues.add(.maxData) }
    }

    private mutating func receiveReset(_ id: StreamID, code: UInt64, finalSize: UInt64) throws(TransportError) {
        guard let stream = try self.stream(addressedByPeer: id) else { return }
        if id == .control { throw TransportError(.controlError, "a reset of the control stream") }
        try self.setFinalSize(finalSize, of: stream)
        try self.count(upTo: finalSize, of: stream)
        guard stream.resetReceived == nil, !stream.endIsTaken else { return }
        stream.resetReceived = code
        // A TCP reset doesn't discard bytes that came in order before it. Bytes beyond a gap can't be delivered any more.
        if code == StreamErrorCode.tcpReset.rawValue {
            self.flow.gapsChanged(by: -stream.receiveBuffer.discardBeyondGaps())
        } else {
            self.flow.gapsChanged(by: -stream.receiveBuffer.discard())
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

    /// Gives back the credit of bytes that were received and will never be read.
    mutating func consumeAll(_ stream: StreamState) {
        self.consume(stream.receiveWindow.buffered - UInt64(stream.receiveBuffer.readyCount), of: stream)
    }

    mutating func consume(_ count: UInt64, of stream: StreamState) {
        stream.receiveWindow.consume(count)
        if stream.countsAgainstConnection {
            if self.flow.consume(count) { self.queues.add(.maxData) }
        }
        // The stream's own credit is renewed even while its bytes are discarded, or the sender could never finish the stream.
        if stream.receiveWindow.wantsUpdate, stream.finalSize == nil { self.queues.add(.maxStreamData, of: stream) }
    }

    private mutating func signalReadable(_ stream: StreamState) {
        guard stream.isReadable, !stream.readableIsSignalled else { return }
        stream.readableIsSignalled = true
        self.events.append(.readable(stream.id))
    }
}
