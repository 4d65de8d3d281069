import NIOCore

extension Connection {
    /// Handles an ACK frame: RFC 9002 §3 and appendix A.7. On a byte stream, losses are found by PROTOCOL §11.1 instead.
    mutating func receiveAck(_ ack: AckFrame, at now: Instant) throws(TransportError) {
        guard ack.largest < self.numbers.next else {
            throw TransportError(.protocolViolation, "an acknowledgement of what was not sent")
        }
        var skipped = false
        // Reuses the previous frame's array: most ACKs of a bulk transfer settle as many messages as the one before.
        var settled = self.settled
        self.settled = []
        defer {
            settled.removeAll(keepingCapacity: settled.capacity <= Constants.settledKept)
            self.settled = settled
        }
        var isSpurious = false
        ack.forEachRange { range in
            skipped = self.sent.wasSkipped(in: range)
            guard !skipped else { return false }
            if self.recovery?.areLate(range) ?? false { isSpurious = true }
            self.sent.settle(range) { settled.append($0) }
            return true
        }
        guard !skipped else {
            throw TransportError(.protocolViolation, "an acknowledgement of what was not sent")
        }
        guard !settled.isEmpty else { return }
        self.liveness.stopBackoff()
        self.recovery?.stopProbing()
        var newest: SentMessage?
        self.acknowledge(settled)
        for message in settled
        where message.carrier == self.carrier && newest.map({ message.number > $0.number }) ?? true {
            newest = message
        }
        if let newest {
            if newest.number == ack.largest { self.path.sample(now - newest.time, ackDelay: ack.delay) }
            if !self.usesDatagrams {
                var lost: [SentMessage] = []
                self.sent.settleEarlier(than: newest.number, on: newest.carrier) { lost.append($0) }
                for message in lost { self.lose(message) }
            } else {
                self.recover(acknowledged: settled, newest: newest, isSpurious: isSpurious, at: now)
            }
            self.liveness.acknowledged(sentAt: newest.time)
        }
        self.noteAlive(at: now)
        self.signalWritableAfterRoom()
    }

    /// Takes messages newest first, as `settle` hands them out. Consecutive messages mostly carry consecutive bytes of one
    /// stream, so such chunks are merged and acknowledged in one call.
    private mutating func acknowledge(_ messages: [SentMessage]) {
        var run: StreamChunk?
        for message in messages.reversed() {
            if let chunk = message.chunk {
                if let before = run, before.stream == chunk.stream, before.range.upperBound == chunk.range.lowerBound {
                    run = StreamChunk(
                        stream: chunk.stream,
                        range: before.range.lowerBound..<chunk.range.upperBound,
                        fin: before.fin || chunk.fin
                    )
                } else {
                    if let run { self.acknowledge(run) }
                    run = chunk
                }
            }
            if message.acknowledges != nil || message.hasMore { self.acknowledgeRest(of: message) }
        }
        if let run { self.acknowledge(run) }
    }

    private mutating func acknowledgeRest(of message: SentMessage) {
        if let number = message.acknowledges { self.received.forget(through: number) }
        for frame in self.sent.takeMore(of: message) {
            switch frame {
            case .chunk(let chunk): self.acknowledge(chunk)
            case .datagram(let id): self.events.append(.datagramAcknowledged(id))
            case .control(let id, let frames):
                guard frames.contains(.resetStream), let stream = self.streams[id] else { continue }
                stream.resetIsAcknowledged = true
                self.forgetIfDone(stream)
            }
        }
    }

    private mutating func acknowledge(_ chunk: StreamChunk) {
        guard let stream = self.streams[chunk.stream] else { return }
        self.flow.sendBuffersChanged(by: -stream.sendBuffer.acknowledge(chunk.range))
        if !stream.urgentToSend.isEmpty { stream.urgentToSend.remove(below: stream.sendBuffer.base) }
        if chunk.fin { stream.finIsAcknowledged = true }
        if stream.wantsWritable, stream.id == .control { self.signalWritable(stream) }
        if !stream.held.isEmpty { self.releaseIfAcknowledged(stream) }
        self.forgetIfDone(stream)
    }

    /// Queues the frames of a lost message again. A message itself is never sent twice (RFC 9000 §13.3).
    mutating func lose(_ message: SentMessage) {
        self.statistics.messagesLost += 1
        self.requeue(message, self.sent.takeMore(of: message))
    }

    /// Queues the frames alone: also for a probe, whose message isn't lost. A DATAGRAM frame goes out only once.
    mutating func requeue(_ message: SentMessage, _ more: [SentFrame]) {
        self.queues.add(message.control)
        if let chunk = message.chunk { self.lose(chunk) }
        for frame in more {
            if case .chunk(let chunk) = frame { self.lose(chunk) }
            guard case .control(let id, let frames) = frame, let stream = self.streams[id] else { continue }
            if frames.contains(.resetStream), !stream.resetIsAcknowledged { self.queues.add(.resetStream, of: stream) }
            if frames.contains(.stopSending), !stream.isReceivingDone { self.queues.add(.stopSending, of: stream) }
            if frames.contains(.maxStreamData), stream.finalSize == nil { self.queues.add(.maxStreamData, of: stream) }
        }
    }

    private mutating func lose(_ chunk: StreamChunk) {
        guard let stream = self.streams[chunk.stream], stream.resetSent == nil else { return }
        stream.sendBuffer.lose(chunk.range)
        if chunk.fin, !stream.finIsAcknowledged { stream.finIsSent = false }
        self.queues.addLost(stream)
        self.queues.addFresh(stream)
    }

    /// Declares lost every unacknowledged message on carriers other than this one: their frames are sent again.
    mutating func loseAll(exceptOn carrier: CarrierID?) {
        var lost: [SentMessage] = []
        self.sent.settleAll(where: { $0 != carrier }, { lost.append($0) })
        for message in lost { self.lose(message) }
    }
}
