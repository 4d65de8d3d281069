public import NIOCore
import Noise

extension Connection {
    /// `writeNext`, but only if the connection uses this carrier. False: nothing was written.
    mutating func writeNext(into buffer: inout ByteBuffer, onlyOn carrier: CarrierID, at now: Instant) -> Bool {
        self.carrier == carrier && self.writeNext(into: &buffer, at: now) != nil
    }

    /// Seals the next message into the buffer, and returns the carrier that it goes on; nil when there is nothing to send.
    ///
    /// Frames are chosen only now, so that a request that has just come overtakes bulk data that waits.
    public mutating func writeNext(into buffer: inout ByteBuffer, at now: Instant) -> CarrierID? {
        guard let carrier, let session, !session.isExpired(at: now), !session.isWornOut else { return nil }
        switch self.state {
        case .closed: return nil
        case .closing(var closing):
            guard closing.isPending else { return nil }
            closing.closeIsSent(on: self.path, lifetime: self.closingLifetime(closing.end), at: now)
            self.state = .closing(closing)
            let room = self.roomOnStream(session)
            return self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { _, body, _ in
                Self.writeClose(closing.end, into: &body)
                return false
            }
        case .active: break
        }
        if self.numbers.areUsedUp {
            self.end(ConnectionEnd(code: .internalError, origin: .local, reason: "all numbers are used"), at: now)
            return nil
        }
        if self.usesDatagrams { return self.writeNextDatagram(into: &buffer, on: carrier, with: session, at: now) }
        guard self.received.isDue(at: now) || self.hasFramesToSend else { return nil }
        let room = self.roomOnStream(session)
        return self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { connection, body, message in
            connection.writeFrames(into: &body, room: room, message: &message, at: now)
        }
    }

    private func roomOnStream(_ session: Session) -> Int {
        let size = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        return Self.room(inMessageOf: self.usesDatagrams ? Constants.baseDatagramSize : size)
    }

    /// Bytes of frames that a message of at most this size holds, padding included.
    private static func room(inMessageOf size: Int) -> Int {
        (size - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
    }

    // MARK: Datagrams

    /// Writes what congestion control, pacing and probes (RFC 9002 §6.2, §7) let go on the datagram path now.
    private mutating func writeNextDatagram(
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        at now: Instant
    ) -> CarrierID? {
        guard let recovery else { return nil }
        var (size, sizeProbe, probesAreDue) = recovery.beginMessage(at: now)
        if let sizeProbe, self.mayElicit(sizeProbe, at: now) {
            return self.writeSizeProbe(sizeProbe, into: &buffer, on: carrier, with: session, at: now)
        }
        if probesAreDue, self.writeProbe(into: &buffer, on: carrier, with: session, at: now) { return carrier }
        if self.hasFramesToSend {
            if self.pathValidation.hasChallenge {
                // The base size gets through even if the path's MTU has fallen.
                size = Constants.baseDatagramSize
                // The peer may be blocked with a full window until it gets this response, so send it at once, alone, past the
                // congestion window.
                if !self.mayElicit(size, at: now) {
                    self.writePathResponses(into: &buffer, with: session)
                    return carrier
                }
            }
            if self.mayElicit(size, at: now),
                self.writeFrames(into: &buffer, on: carrier, with: session, size: size, at: now)
            {
                return carrier
            }
        } else {
            recovery.hasNothingToSend()
            if let probe = recovery.sizeProbe(at: now), self.mayElicit(probe, at: now) {
                return self.writeSizeProbe(probe, into: &buffer, on: carrier, with: session, at: now)
            }
        }
        guard self.received.isDue(at: now) else { return nil }
        if self.received.countAckAlone(), self.mayElicit(Constants.baseDatagramSize, at: now) {
            self.received.pingGoesWithAck()
            self.queues.addPing()
            _ = self.writeFrames(into: &buffer, on: carrier, with: session, size: size, at: now)
            return carrier
        }
        let room = Self.room(inMessageOf: size)
        return self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { connection, body, _ in
            _ = connection.received.writeAck(into: &body, room: min(room, Self.ackAtMost), at: now)
            return false
        }
    }

    /// Writes a message of at most this size. False: there were no frames for it.
    private mutating func writeFrames(
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        size: Int,
        at now: Instant
    ) -> Bool {
        let room = Self.room(inMessageOf: size)
        return self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { connection, body, message in
            connection.writeFrames(into: &body, room: room, message: &message, at: now)
        } != nil
    }

    /// RFC 9002 §6.2.4. A probe has the base size, since the path's MTU may have fallen. It is sent even when `sent` is full,
    /// then with a PING alone.
    private mutating func writeProbe(
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        at now: Instant
    ) -> Bool {
        let due = self.recovery?.probesDue
        let wrote: Bool
        if self.sent.isFull {
            let room = Constants.paddingUnit
            wrote =
                self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { _, body, _ in
                    body.writeVarInt(FrameType.ping)
                    return true
                } != nil
        } else {
            let size = Constants.baseDatagramSize
            wrote = self.writeFrames(into: &buffer, on: carrier, with: session, size: size, at: now)
        }
        // Nothing ack-eliciting went out, since no frame waits that fits into a probe: no further probe is due.
        if self.recovery?.probesDue == due { self.recovery?.stopProbing() }
        return wrote
    }

    private mutating func mayElicit(_ size: Int, at now: Instant) -> Bool {
        !self.sent.isFull && self.recovery?.admits(size, at: now) ?? false
    }

    private mutating func writeSizeProbe(
        _ size: Int,
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        at now: Instant
    ) -> CarrierID? {
        let room = Self.room(inMessageOf: size)
        self.recovery?.sizeProbeSent(size)
        return self.seal(into: &buffer, on: carrier, with: session, room: room, at: now) { _, body, message in
            body.writeVarInt(FrameType.ping)
            body.writeRepeatingByte(0, count: room - 1)
            message.isSizeProbe = true
            return true
        }
    }

    // MARK: Sealing

    /// Pads and seals the frames that the closure writes. The closure returns whether the message must be recorded in `sent`,
    /// and fills in its record.
    private mutating func seal(
        into buffer: inout ByteBuffer,
        on carrier: CarrierID,
        with session: Session,
        room: Int,
        at now: Instant,
        _ write: (inout Self, inout ByteBuffer, inout SentMessage) -> Bool
    ) -> CarrierID? {
        let start = buffer.writerIndex
        buffer.reserveCapacity(minimumWritableBytes: Constants.dataOverhead + room + CipherState.roomBehind)
        // `Session.seal` writes the header; until then these bytes are undefined.
        buffer.moveWriterIndex(forwardBy: Constants.dataHeaderSize)
        let framesStart = buffer.writerIndex
        var message = SentMessage(number: 0, time: now, carrier: carrier)
        let isRemembered = write(&self, &buffer, &message)
        let written = buffer.writerIndex - framesStart
        guard written > 0 else {
            buffer.moveWriterIndex(to: start)
            return nil
        }
        let padding = -written & (Constants.paddingUnit - 1)
        if padding > 0 { buffer.writeRepeatingByte(0, count: padding) }
        buffer.moveWriterIndex(forwardBy: Constants.tagSize)
        let number = self.takeNumber()
        session.seal(messageAt: start, in: &buffer, counter: number)
        let size = buffer.writerIndex - start
        self.statistics.messagesSent += 1
        self.statistics.bytesSent += UInt64(size)
        if isRemembered {
            message.number = number
            self.liveness.elicited(at: now)
            if let stamp = self.recovery?.sent(size, at: now) {
                message.size = size
                message.stamp = stamp
            }
            self.sent.append(message)
        }
        return carrier
    }

    mutating func takeNumber() -> UInt64 {
        let (number, skipped) = self.numbers.take(self.random)
        if let skipped { self.sent.noteSkipped(skipped) }
        return number
    }

    /// `mutating` for the same reason as `hasEvents`.
    private var hasFramesToSend: Bool {
        mutating get {
            if self.sent.isFull { return false }
            if let control = self.streams.control, control.hasLostToSend || control.hasFreshToSend { return true }
            return !self.queues.isEmpty || self.pathValidation.hasChallenge || !self.datagrams.outgoing.isEmpty
        }
    }

    /// The largest size of an ACK frame, with 64 ranges, in bytes.
    private static let ackAtMost = 1_100

    mutating func writeFrames(
        into body: inout ByteBuffer,
        room: Int,
        message: inout SentMessage,
        at now: Instant
    ) -> Bool {
        let end = body.writerIndex + room
        var eliciting = false
        if self.received.hasUnacknowledged {
            message.acknowledges = self.received.writeAck(into: &body, room: min(room, Self.ackAtMost), at: now)
        }
        let afterAck = body.writerIndex
        if !self.sent.isFull {
            if self.queues.hasControl || self.pathValidation.hasChallenge {
                self.writeControl(into: &body, end: end, message: &message, at: now)
            }
            self.writeStreams(into: &body, end: end, message: &message)
            eliciting = body.writerIndex > afterAck
            if self.queues.pingIsPending, body.writerIndex < end {
                if !eliciting { body.writeVarInt(FrameType.ping) }
                eliciting = true
                self.queues.removePing()
            }
        }
        // A message with only an ACK is not recorded in `sent`.
        return eliciting
    }

    private static func writeClose(_ end: ConnectionEnd, into body: inout ByteBuffer) {
        body.writeVarInt(FrameType.connectionClose)
        body.writeVarInt(end.code.rawValue)
        let reason = end.reason.utf8.prefix(256)
        body.writeVarInt(UInt64(reason.count))
        body.writeBytes(reason)
    }

    // MARK: Control frames

    private mutating func writeControl(
        into body: inout ByteBuffer,
        end: Int,
        message: inout SentMessage,
        at now: Instant
    ) {
        while end - body.writerIndex >= 16, let data = self.pathValidation.nextChallenge() {
            body.writeVarInt(FrameType.pathResponse)
            body.writeInteger(data)
        }
        if self.queues.controlFrames.contains(.maxData), end - body.writerIndex >= 16 {
            body.writeVarInt(FrameType.maxData)
            body.writeVarInt(self.flow.announce())
            message.control.insert(.maxData)
        }
        if self.queues.controlFrames.contains(.maxStreams), end - body.writerIndex >= 16 {
            body.writeVarInt(FrameType.maxStreams)
            body.writeVarInt(self.streams.peerLimit)
            message.control.insert(.maxStreams)
        }
        self.queues.remove(message.control)
        // Room for all three control frames that a stream can have.
        while end - body.writerIndex >= 80, let (stream, frames) = self.queues.nextControl(in: &self.streams) {
            if !frames.isEmpty {
                self.write(frames, of: stream, into: &body, at: now)
                self.sent.collect(.control(stream.id, frames), for: &message)
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
            let most = self.flow.windowAtMost(of: stream)
            // Where shared memory is scarce, a stream whose reader stands still would otherwise take all that other
            // connections leave to this one.
            if self.flow.memoryIsScarce {
                stream.receiveWindow.shrink(to: max(Constants.initialStreamWindow, most))
            }
            let limit = stream.receiveWindow.update(
                at: now,
                roundTripTime: self.roundTripTime.smoothed,
                windowAtMost: most
            )
            body.writeVarInt(FrameType.maxStreamData)
            body.writeVarInt(stream.id.rawValue)
            body.writeVarInt(limit)
        }
    }

    // MARK: Stream frames

    /// Writes the control stream first, then lost data, then the other streams in turn, one frame each. Datagrams go before
    /// or after the latter two, as `writeDatagrams` decides.
    private mutating func writeStreams(into body: inout ByteBuffer, end: Int, message: inout SentMessage) {
        if let control = self.streams.control, control.hasLostToSend || control.hasFreshToSend {
            self.writeStream(control, into: &body, end: end, message: &message)
        }
        self.writeDatagrams(into: &body, end: end, message: &message, streamsWait: self.queues.hasStreams)
        defer { self.writeDatagrams(into: &body, end: end, message: &message, streamsWait: false) }
        // A STREAM frame's header takes at most 21 bytes; less room than 64 bytes is not worth one.
        while end - body.writerIndex >= 64, let stream = self.queues.nextLost(in: &self.streams) {
            self.writeStream(stream, into: &body, end: end, message: &message)
            self.queues.addLost(stream)
        }
        // Each stream has at most one turn in a message.
        var turns = self.queues.freshCount
        while end - body.writerIndex >= 64,
            let stream = self.queues.nextFresh(
                in: &self.streams,
                turns: &turns,
                hasCredit: self.flow.sendCredit.available > 0
            )
        {
            self.writeStream(stream, into: &body, end: end, message: &message)
            self.queues.addFresh(stream)
        }
    }

    private mutating func writeStream(
        _ stream: StreamState,
        into body: inout ByteBuffer,
        end: Int,
        message: inout SentMessage
    ) {
        let connectionCredit = stream.countsAgainstConnection ? self.flow.sendCredit.available : .max
        let fresh = min(stream.sendCredit.available, connectionCredit)
        let room = end - body.writerIndex
        // A header has at least three bytes.
        let next = stream.sendBuffer.nextRange(atMost: max(0, room - 3), freshAtMost: fresh)
        var range = next ?? stream.sendBuffer.end..<stream.sendBuffer.end
        // A frame that carries an urgent byte ends with it.
        let urgent = stream.urgentToSend.isEmpty ? nil : stream.urgentToSend.first(from: range.lowerBound)
        if let urgent, urgent < range.upperBound { range = range.lowerBound..<urgent + 1 }
        // Type, id, offset, length: exactly, so that a full message needs no padding.
        let offsetSize = range.lowerBound > 0 ? VarInt.byteCount(range.lowerBound) : 0
        let typeSize = urgent == nil ? 1 : VarInt.byteCount(FrameType.urgentStream)
        let headerSize =
            typeSize + VarInt.byteCount(stream.id.rawValue) + offsetSize + VarInt.byteCount(UInt64(range.count))
        guard room > headerSize else { return }
        range = range.lowerBound..<min(range.upperBound, range.lowerBound + UInt64(room - headerSize))
        let reachesEnd = range.upperBound == stream.sendBuffer.end
        let fin = stream.finIsQueued && !stream.finIsSent && reachesEnd
        guard !range.isEmpty || (fin && stream.sendBuffer.unsent == 0) else { return }
        let isFresh = range.lowerBound >= stream.sendBuffer.sentEnd

        let endsUrgent = urgent.map { $0 + 1 == range.upperBound } ?? false
        var type = (endsUrgent ? FrameType.urgentStream : FrameType.stream) | FrameType.streamLength
        if range.lowerBound > 0 { type |= FrameType.streamOffset }
        if fin { type |= FrameType.streamFin }
        body.writeWithOutputRawSpan(minimumWritableBytes: headerSize + range.count) { output in
            output.appendVarInt(type)
            output.appendVarInt(stream.id.rawValue)
            if range.lowerBound > 0 { output.appendVarInt(range.lowerBound) }
            output.appendVarInt(UInt64(range.count))
            if !range.isEmpty { stream.sendBuffer.send(range, into: &output) }
        }
        if !range.isEmpty, isFresh {
            stream.sendCredit.use(UInt64(range.count))
            if stream.countsAgainstConnection { self.flow.useCredit(UInt64(range.count)) }
            self.signalWritable(stream)
        }
        if fin { stream.finIsSent = true }
        let chunk = StreamChunk(stream: stream.id, range: range, fin: fin)
        if message.chunk == nil { message.chunk = chunk } else { self.sent.collect(.chunk(chunk), for: &message) }
    }
}
