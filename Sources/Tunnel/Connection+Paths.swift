import NIOCore

/// Paths of datagrams: RFC 9000 §8.2, and messages that carry nothing.
extension Connection {
    mutating func receivePathFrame(_ frame: Frame) {
        switch frame {
        case .pathChallenge(let data):
            guard self.usesDatagrams else { return }
            if self.pathResponses.count >= Constants.pathResponsesKept { self.pathResponses.removeFirst() }
            self.pathResponses.append(data)
            // The peer finds its way back: what it has missed is asked for without the pauses that its silence has earned.
            self.probeCount = 0
        case .pathResponse(let data):
            guard self.role == .responder, self.pathResponsesReceived.count < Constants.pathResponsesReadAtOnce else {
                return
            }
            self.pathResponsesReceived.append(data)
        default: break
        }
    }

    /// The path's address has changed, and what went to the old one is lost: the peer is asked, and told what has come.
    mutating func pathWasMoved() {
        guard self.usesDatagrams else { return }
        self.received.ackAgain()
        self.probeCount = 0
        self.sendProbes()
    }

    /// Nothing else: neither the window nor the pacer holds it back, so it has to be small.
    mutating func writePathResponses(into buffer: inout ByteBuffer, with session: Session) {
        let answers = self.pathResponses
        self.pathResponses.removeAll()
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) { body in
            for data in answers {
                body.writeVarInt(FrameType.pathResponse)
                body.writeInteger(data)
            }
        }
    }

    /// For the peer, by a byte stream: datagrams don't get through to it.
    mutating func writeNudge(into buffer: inout ByteBuffer, at now: Instant) -> Bool {
        guard let session, self.isActive, !session.isExpired(at: now), !session.isWornOut,
            self.nextNumber < Constants.greatestCounter - 2 * Constants.skipInterval
        else { return false }
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) {
            $0.writeVarInt(FrameType.ping)
        }
        return true
    }

    /// The peer said that datagrams don't get through to it: a sign of life will show whether that is so.
    mutating func askPeer() {
        if self.usesDatagrams, self.sent.isEmpty { self.pingIsPending = true }
    }

    mutating func takePathResponses() -> [UInt64] {
        defer { self.pathResponsesReceived.removeAll() }
        return self.pathResponsesReceived
    }

    /// A message for another address than the path's: a challenge, and padding up to the size.
    ///
    /// Nothing remembers it: what is acknowledged of it says nothing of the path in use.
    mutating func writeChallenge(
        _ data: UInt64,
        size: Int,
        into buffer: inout ByteBuffer,
        with session: Session,
        at now: Instant
    ) -> Bool {
        guard self.isActive, !session.isExpired(at: now), !session.isWornOut,
            self.nextNumber < Constants.greatestCounter - 2 * Constants.skipInterval
        else { return false }
        self.sealUntracked(into: &buffer, with: session, size: size) { body in
            body.writeVarInt(FrameType.pathChallenge)
            body.writeInteger(data)
        }
        return true
    }

    /// A message without frames: it shows a carrier to be this connection's, and moves nothing.
    mutating func writeEmpty(into buffer: inout ByteBuffer, with session: Session, at now: Instant) -> Bool {
        guard self.isActive, !session.isExpired(at: now), !session.isWornOut,
            self.nextNumber < Constants.greatestCounter - 2 * Constants.skipInterval
        else { return false }
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) { _ in }
        return true
    }

    private mutating func sealUntracked(
        into buffer: inout ByteBuffer,
        with session: Session,
        size: Int,
        _ write: (inout ByteBuffer) -> Void
    ) {
        let start = buffer.writerIndex
        buffer.writeRepeatingByte(0, count: Constants.dataHeaderSize)
        write(&buffer)
        let written = buffer.writerIndex - start - Constants.dataHeaderSize
        let wanted = max(written, size - Constants.dataOverhead)
        let padded = (wanted + Constants.paddingUnit - 1) & ~(Constants.paddingUnit - 1)
        buffer.writeRepeatingByte(0, count: padded - written + Constants.tagSize)
        session.seal(messageAt: start, in: &buffer, counter: self.takeNumber())
        self.statistics.messagesSent += 1
        self.statistics.bytesSent += UInt64(buffer.writerIndex - start)
    }
}
