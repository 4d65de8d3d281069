public import NIOCore

extension Connection {
    /// Seals the next message into the buffer and says on which carrier it goes; nil when there is nothing to send.
    ///
    /// The frames are made at this moment and not before, so that a request that has just come overtakes bulk that waits.
    public mutating func writeNext(into buffer: inout ByteBuffer, at now: Instant) -> CarrierID? {
        guard let carrier, let session, !session.isExpired(at: now), !session.isWornOut else { return nil }
        switch self.state {
        case .closed: return nil
        case .closing(let end, _):
            guard self.closeIsPending else { return nil }
            self.closeIsPending = false
            self.closeSentAt = now
            return self.seal(into: &buffer, on: carrier, with: session, at: now) { _, body, _ in
                Self.writeClose(end, into: &body)
            }
        case .active: break
        }
        // A few are kept back, for the close itself and its repetitions.
        if self.nextNumber >= Constants.greatestCounter - 2 * Constants.skipInterval {
            self.end(ConnectionEnd(code: .internalError, origin: .local, reason: "all numbers are used"), at: now)
            return nil
        }
        guard self.hasSomethingToSend(at: now) else { return nil }
        return self.seal(into: &buffer, on: carrier, with: session, at: now) { connection, body, room in
            connection.writeFrames(into: &body, room: room, carrier: carrier, at: now)
        }
    }

    /// Writes frames by the closure, pads and seals them. The closure returns what to remember, if anything.
    private mutating func seal(
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        at now: Instant,
        _ write: (inout Self, inout ByteBuffer, Int) -> SentMessage?
    ) -> CarrierID? {
        let start = buffer.writerIndex
        let size = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        let room = (size - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
        buffer.writeRepeatingByte(0, count: Constants.dataHeaderSize)
        let framesStart = buffer.writerIndex
        var message = write(&self, &buffer, room)
        let written = buffer.writerIndex - framesStart
        guard written > 0 else {
            buffer.moveWriterIndex(to: start)
            return nil
        }
        let padding = -written & (Constants.paddingUnit - 1)
        buffer.writeRepeatingByte(0, count: padding)
        let number = self.takeNumber()
        session.seal(messageAt: start, in: &buffer, counter: number)
        self.statistics.messagesSent += 1
        self.statistics.bytesSent += UInt64(buffer.writerIndex - start)
        if message != nil {
            message?.number = number
            self.elicitedAt = now
            if let message { self.sent.append(message) }
        }
        return carrier
    }

    private mutating func takeNumber() -> UInt64 {
        if self.nextNumber == self.nextSkip {
            self.sent.noteSkipped(self.nextNumber)
            self.nextNumber += 1
            self.nextSkip = self.drawSkip(after: self.nextNumber)
        }
        defer { self.nextNumber += 1 }
        return self.nextNumber
    }

    private func hasSomethingToSend(at now: Instant) -> Bool {
        if self.received.isDue(at: now) { return true }
        if self.sent.isFull { return false }
        if let control = self.controlStream, control.hasLostToSend || control.hasFreshToSend { return true }
        return self.pingIsPending || !self.pendingControl.isEmpty || !self.controlQueue.isEmpty
            || !self.lostQueue.isEmpty || !self.freshQueue.isEmpty || !self.datagrams.outgoing.isEmpty
    }

    private mutating func writeFrames(
        into body: inout ByteBuffer,
        room: Int,
        carrier: CarrierID,
        at now: Instant
    ) -> SentMessage? {
        let end = body.writerIndex + room
        var message = SentMessage(number: 0, time: now, carrier: carrier)
        var eliciting = false
        if self.received.hasUnacknowledged {
            message.acknowledges = self.received.writeAck(into: &body, room: min(room, 1_100), at: now)
        }
        let afterAck = body.writerIndex
        if !self.sent.isFull {
            self.writeControl(into: &body, end: end, message: &message, at: now)
            self.writeStreams(into: &body, end: end, message: &message)
            eliciting = body.writerIndex > afterAck
            if self.pingIsPending, body.writerIndex < end {
                if !eliciting { body.writeVarInt(FrameType.ping) }
                eliciting = true
                self.pingIsPending = false
            }
        }
        // An ACK alone is not remembered.
        return eliciting ? message : nil
    }

    private static func writeClose(_ end: ConnectionEnd, into body: inout ByteBuffer) -> SentMessage? {
        body.writeVarInt(FrameType.connectionClose)
        body.writeVarInt(end.code.rawValue)
        let reason = end.reason.utf8.prefix(256)
        body.writeVarInt(UInt64(reason.count))
        body.writeBytes(reason)
        return nil
    }

    // MARK: Control frames

    private mutating func writeControl(
        into body: inout ByteBuffer,
        end: Int,
        message: inout SentMessage,
        at now: Instant
    ) {
        if self.pendingControl.contains(.maxData), end - body.writerIndex >= 16 {
            let limit = self.receiveWindow.update(
                at: now,
                roundTripTime: self.roundTripTime.smoothed,
                windowAtMost: self.configuration.maxConnectionWindow
            )
            body.writeVarInt(FrameType.maxData)
            body.writeVarInt(limit)
            message.control.insert(.maxData)
        }
        if self.pendingControl.contains(.maxStreams), end - body.writerIndex >= 16 {
            body.writeVarInt(FrameType.maxStreams)
            body.writeVarInt(self.peerStreamLimit)
            message.control.insert(.maxStreams)
        }
        self.pendingControl.subtract(message.control)
        // The greatest frame here has a type and three varints.
        while end - body.writerIndex >= 80, let id = self.controlQueue.popFirst() {
            guard let stream = self.streams[id.rawValue] else { continue }
            stream.isInControlQueue = false
            let frames = stream.pendingControl
            stream.pendingControl = []
            if !frames.isEmpty {
                self.write(frames, of: stream, into: &body, at: now)
                message.streamControl.append((id, frames))
            }
        }
    }

    private mutating func write(
        _ frames: StreamControlFrames,
        of stream: StreamState,
        into body: inout ByteBuffer,
        at now: Instant
    ) {
        if frames.contains(.resetStream), let reset = stream.resetSent {
            body.writeVarInt(FrameType.resetStream)
            body.writeVarInt(stream.id.rawValue)
            body.writeVarInt(reset.code)
            body.writeVarInt(reset.finalSize)
        }
        if frames.contains(.stopSending), let code = stream.stopRequested {
            body.writeVarInt(FrameType.stopSending)
            body.writeVarInt(stream.id.rawValue)
            body.writeVarInt(code)
        }
        if frames.contains(.maxStreamData) {
            // No stream grows to where a few that stand still would take what all share.
            let free =
                self.configuration.maxConnectionWindow
                - min(
                    self.configuration.maxConnectionWindow,
                    self.receiveWindow.buffered
                )
            let cap = min(Constants.maxStreamWindow, free / 2)
            let limit = stream.receiveWindow.update(
                at: now,
                roundTripTime: self.roundTripTime.smoothed,
                // The control stream takes no credit from the connection: what it may hold is added to that.
                windowAtMost: stream.countsAgainstConnection ? cap : Constants.initialStreamWindow
            )
            body.writeVarInt(FrameType.maxStreamData)
            body.writeVarInt(stream.id.rawValue)
            body.writeVarInt(limit)
        }
    }

    // MARK: Stream frames

    /// The control stream first, then what was lost, then the others in turn: one frame each, then the next one.
    private mutating func writeStreams(into body: inout ByteBuffer, end: Int, message: inout SentMessage) {
        if let control = self.controlStream, control.hasLostToSend || control.hasFreshToSend {
            self.writeStream(control, into: &body, end: end, message: &message)
        }
        let streamsWait = !self.lostQueue.isEmpty || !self.freshQueue.isEmpty
        self.writeDatagrams(into: &body, end: end, message: &message, streamsWait: streamsWait)
        defer { self.writeDatagrams(into: &body, end: end, message: &message, streamsWait: false) }
        // A frame's header takes at most 21 bytes; less than this is not worth one.
        while end - body.writerIndex >= 64, let id = self.lostQueue.popFirst() {
            guard let stream = self.streams[id.rawValue] else { continue }
            stream.isInLostQueue = false
            guard stream.hasLostToSend else { continue }
            self.writeStream(stream, into: &body, end: end, message: &message)
            self.queueLost(stream)
        }
        // Each at most once a message.
        var turns = self.freshQueue.count
        while turns > 0, end - body.writerIndex >= 64, let id = self.freshQueue.popFirst() {
            turns -= 1
            guard let stream = self.streams[id.rawValue] else { continue }
            if stream.needsConnectionCredit, self.sendCredit.available == 0 {
                self.blockedQueue.append(id)
                continue
            }
            stream.isInFreshQueue = false
            guard stream.hasFreshToSend else { continue }
            self.writeStream(stream, into: &body, end: end, message: &message)
            self.queueFresh(stream)
        }
    }

    private mutating func writeStream(
        _ stream: StreamState,
        into body: inout ByteBuffer,
        end: Int,
        message: inout SentMessage
    ) {
        let connectionCredit = stream.countsAgainstConnection ? self.sendCredit.available : .max
        let fresh = min(stream.sendCredit.available, connectionCredit)
        let idSize = VarInt.byteCount(stream.id.rawValue)
        // Type, id, an offset of at most 8 bytes, a length of at most 4.
        let room = end - body.writerIndex - 1 - idSize - 12
        guard room > 0 else { return }
        let next = stream.sendBuffer.nextRange(atMost: room, freshAtMost: fresh)
        let range = next ?? stream.sendBuffer.end..<stream.sendBuffer.end
        let reachesEnd = range.upperBound == stream.sendBuffer.end
        let fin = stream.finIsQueued && !stream.finIsSent && reachesEnd
        guard !range.isEmpty || (fin && stream.sendBuffer.unsent == 0) else { return }
        let isFresh = range.lowerBound >= stream.sendBuffer.sentEnd

        var type = FrameType.stream | FrameType.streamLength
        if range.lowerBound > 0 { type |= FrameType.streamOffset }
        if fin { type |= FrameType.streamFin }
        body.writeVarInt(type)
        body.writeVarInt(stream.id.rawValue)
        if range.lowerBound > 0 { body.writeVarInt(range.lowerBound) }
        body.writeVarInt(UInt64(range.count))
        if !range.isEmpty {
            stream.sendBuffer.send(range, into: &body)
            if isFresh {
                stream.sendCredit.use(UInt64(range.count))
                if stream.countsAgainstConnection { self.sendCredit.use(UInt64(range.count)) }
                self.signalWritable(stream)
            }
        }
        if fin { stream.finIsSent = true }
        let chunk = StreamChunk(stream: stream.id, range: range, fin: fin)
        if message.chunk == nil { message.chunk = chunk } else { message.moreChunks.append(chunk) }
    }

    // MARK: Queues

    mutating func queueControl(_ stream: StreamState, _ frames: StreamControlFrames) {
        stream.pendingControl.formUnion(frames)
        guard !stream.isInControlQueue else { return }
        stream.isInControlQueue = true
        self.controlQueue.append(stream.id)
    }

    mutating func queueLost(_ stream: StreamState) {
        // The control stream is looked at before the queues.
        guard stream.hasLostToSend, !stream.isInLostQueue, stream.id != .control else { return }
        stream.isInLostQueue = true
        self.lostQueue.append(stream.id)
    }

    /// A stream stands in `freshQueue` or in `blockedQueue`, or in neither.
    mutating func queueFresh(_ stream: StreamState) {
        guard stream.hasFreshToSend, !stream.isInFreshQueue, stream.id != .control else { return }
        stream.isInFreshQueue = true
        self.freshQueue.append(stream.id)
    }

    mutating func queueBlocked() {
        while let id = self.blockedQueue.popFirst() { self.freshQueue.append(id) }
    }
}
