import NIOCore

/// Path validation (RFC 9000 §8.2), both parts of it: challenges of the peer that we have to answer, and its answers to ours.
struct PathValidation {
    /// Data of PATH_CHALLENGE frames that no PATH_RESPONSE of ours has repeated yet.
    private var challenges = CircularBuffer<UInt64>()
    /// Data of the PATH_RESPONSE frames that came since `takeAnswers` was last called.
    private var answers: [UInt64] = []

    var hasChallenge: Bool { !self.challenges.isEmpty }
    /// For tests.
    var counts: [Int] { [self.challenges.count, self.answers.count] }

    /// Of many challenges, the newest are answered.
    mutating func challenged(_ data: UInt64) {
        if self.challenges.count >= Constants.pathResponsesKept { self.challenges.removeFirst() }
        self.challenges.append(data)
    }

    mutating func nextChallenge() -> UInt64? { self.challenges.popFirst() }

    mutating func answered(_ data: UInt64) {
        guard self.answers.count < Constants.pathResponsesReadAtOnce else { return }
        self.answers.append(data)
    }

    mutating func takeAnswers() -> [UInt64] {
        defer { self.answers.removeAll() }
        return self.answers
    }

    /// Challenges were for the path that was in use before.
    mutating func carrierChanged() { self.challenges.removeAll() }
}

/// Path validation on datagrams (RFC 9000 §8.2), and messages without application data.
extension Connection {
    mutating func receivePathFrame(_ frame: Frame) {
        switch frame {
        case .pathChallenge(let data):
            guard self.usesDatagrams else { return }
            self.pathValidation.challenged(data)
            // A new path is being validated, so the peer may be reachable again: the backoff of the probe timeout ends, and
            // what the peer has missed is sent again soon.
            self.liveness.stopBackoff()
        case .pathResponse(let data):
            // An initiator sends no challenges.
            if self.role == .responder { self.pathValidation.answered(data) }
        default: break
        }
    }

    /// The path has a new port, and what went to the old one is lost: probes go out as after a probe timeout, and what we
    /// have received is acknowledged again (PROTOCOL §8.3).
    mutating func pathWasMoved() {
        guard self.usesDatagrams else { return }
        self.received.ackAgain()
        self.liveness.stopBackoff()
        self.sendProbes()
    }

    /// Writes a message with PATH_RESPONSE frames only. Neither the congestion window nor the pacer holds it back, so it has
    /// to be small.
    mutating func writePathResponses(into buffer: inout ByteBuffer, with session: Session) {
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) { connection, body in
            while let data = connection.pathValidation.nextChallenge() {
                body.writeVarInt(FrameType.pathResponse)
                body.writeInteger(data)
            }
        }
    }

    /// Writes a PING for the standby byte stream: it tells the initiator that our datagrams stay unacknowledged (PROTOCOL
    /// §8.2).
    mutating func writeNudge(into buffer: inout ByteBuffer, at now: Instant) -> Bool {
        guard let session, self.isActive, !session.isExpired(at: now), !session.isWornOut, !self.numbers.areUsedUp
        else { return false }
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) { _, body in
            body.writeVarInt(FrameType.ping)
        }
        return true
    }

    /// Frames on the standby byte stream say that the responder's datagrams stay unacknowledged. Unless messages of ours
    /// already wait for an acknowledgement, a PING over datagrams finds out whether they get through.
    mutating func askPeer() {
        if self.usesDatagrams, self.sent.isEmpty { self.queues.addPing() }
    }

    /// Writes a message for an address other than the path's: PATH_CHALLENGE, padded to `size`.
    ///
    /// It is not recorded in `sent`: its acknowledgement would say nothing about the path in use.
    mutating func writeChallenge(
        _ data: UInt64,
        size: Int,
        into buffer: inout ByteBuffer,
        with session: Session,
        at now: Instant
    ) -> Bool {
        guard self.isActive, !session.isExpired(at: now), !session.isWornOut, !self.numbers.areUsedUp else {
            return false
        }
        self.sealUntracked(into: &buffer, with: session, size: size) { _, body in
            body.writeVarInt(FrameType.pathChallenge)
            body.writeInteger(data)
        }
        return true
    }

    /// Writes a message without frames: it shows that a carrier belongs to this connection, and doesn't move the connection
    /// to it.
    mutating func writeEmpty(into buffer: inout ByteBuffer, with session: Session, at now: Instant) -> Bool {
        guard self.isActive, !session.isExpired(at: now), !session.isWornOut, !self.numbers.areUsedUp else {
            return false
        }
        self.sealUntracked(into: &buffer, with: session, size: Constants.dataOverhead) { _, _ in }
        return true
    }

    private mutating func sealUntracked(
        into buffer: inout ByteBuffer,
        with session: Session,
        size: Int,
        _ write: (inout Self, inout ByteBuffer) -> Void
    ) {
        let start = buffer.writerIndex
        buffer.writeRepeatingByte(0, count: Constants.dataHeaderSize)
        write(&self, &buffer)
        let written = buffer.writerIndex - start - Constants.dataHeaderSize
        let wanted = max(written, size - Constants.dataOverhead)
        let padded = (wanted + Constants.paddingUnit - 1) & ~(Constants.paddingUnit - 1)
        buffer.writeRepeatingByte(0, count: padded - written + Constants.tagSize)
        session.seal(messageAt: start, in: &buffer, counter: self.takeNumber())
        self.statistics.messagesSent += 1
        self.statistics.bytesSent += UInt64(buffer.writerIndex - start)
    }
}

/// RFC 9000 §8.2: an address that is being validated.
struct PathCandidate {
    let route: DatagramRoute
    /// The session of the message that came from there: the connection may not have one yet.
    let session: Session
    let data: UInt64
    let since: Instant
    var sent = 0
    /// When the next PATH_CHALLENGE is due; nil: as soon as a message can be sent.
    var sendAt: Instant?
    var bytesReceived: Int
    var bytesSent = 0
}
