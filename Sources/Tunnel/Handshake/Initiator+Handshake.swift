import NIOCore
import Noise

/// Begins handshakes, answers cookies, and makes of a response a session of the connection.
extension Initiator {
    mutating func initiate(on id: CarrierID, at now: Instant) {
        guard !self.isClosing, let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        let index = self.unusedIndex()
        let timestamp = max(self.lastTimestamp?.successor ?? self.wallClock(), self.wallClock())
        self.lastTimestamp = timestamp

        var payload = ByteBuffer()
        timestamp.write(into: &payload)
        self.configuration.tunnel.parameters(self.connectionID).write(into: &payload)
        let overhead = HandshakeMessage.initiationHeader + InitiatorHandshake.message1Overhead + HandshakeMessage.macs
        // In a datagram, an initiation has the size that the path must be able to carry; no answer is larger.
        let sizes = Constants.initiationSizes
        let size = self.carriers[at].kind == .datagrams ? Constants.baseDatagramSize : sizes.lowerBound
        let lacking = size - overhead - payload.readableBytes
        // A padding parameter takes at least two bytes.
        if lacking > 0 { TransportParameters.writePadding(max(2, lacking), into: &payload) }

        var handshake = HandshakeMessage.withPrologue { prologue in
            InitiatorHandshake(
                staticKey: self.configuration.staticKey,
                responder: self.configuration.responder,
                presharedKey: self.configuration.presharedKey,
                prologue: prologue,
                random: self.random,
                arena: self.arena
            )
        }
        var message = ByteBuffer()
        message.writeInteger(OuterMessageType.initiation.rawValue, endianness: .little)
        message.writeInteger(index, endianness: .little)
        let room = InitiatorHandshake.message1Overhead + payload.readableBytes
        var isWritten = false
        message.writeWithOutputRawSpan(minimumWritableBytes: room) { output in
            isWritten = handshake.writeMessage1(payload: payload.readableBytesSpan, into: &output)
        }
        self.schedule(retryOf: at, at: now)
        // The responder's key is of low order: no handshake is possible, and the wait for a response times out.
        guard isWritten else { return }
        let cookie = self.carriers[at].cookie.flatMap { now - $0.at < Constants.cookieLifetime ? $0.value : nil }
        let mac1 = HandshakeMessage.appendMacs(self.sendingMac, cookie: cookie, to: &message)

        // The responder forgets unconfirmed sessions after this time too.
        self.pending.removeAll { now - $0.sentAt >= Constants.unconfirmedLifetime }
        if self.pending.count >= Constants.handshakesInFlight { self.pending.removeFirst() }
        self.pending.append(
            Pending(
                localIndex: index,
                carrier: id,
                sentAt: now,
                timestamp: timestamp,
                mac1: mac1,
                handshake: handshake
            )
        )
        self.carriers[at].outbox = message
    }

    private mutating func schedule(retryOf at: Int, at now: Instant) {
        let attempts = self.carriers[at].attempts
        let waited = now - self.carriers[at].since
        let interval: TimeAmount
        if attempts < Constants.retrySchedule.count {
            interval = Constants.retrySchedule[attempts]
        } else {
            let base = waited < Constants.retryPatience ? Constants.retryInterval : Constants.retryIntervalLater
            let jitter = self.random.next() % UInt64(Constants.retryJitter.nanoseconds)
            interval = base + .nanoseconds(Int64(jitter))
        }
        self.carriers[at].attempts = min(attempts + 1, 1_000)
        self.carriers[at].retryAt = now + interval
    }

    /// A cookie is taken only if it matches the mac1 of the latest initiation on this carrier, and it is used in the next
    /// scheduled retry, not sooner, so forging or replaying a cookie reply gains an attacker nothing.
    mutating func receiveCookie(
        _ message: ByteBuffer,
        from carrier: CarrierID,
        at now: Instant
    ) -> DropReason? {
        // Cookies are for datagrams only: the address of a byte stream can't be forged.
        guard let at = self.carriers.firstIndex(where: { $0.id == carrier }), self.carriers[at].kind == .datagrams,
            let index: UInt32 = message.headerInteger(at: 4)
        else { return .malformed }
        guard let pending = self.pending.last(where: { $0.carrier == carrier }), pending.localIndex == index else {
            return .unknownIndex
        }
        guard let cookie = HandshakeMessage.readCookieReply(message, answering: pending.mac1, self.cookieKey) else {
            return .notOpened
        }
        self.carriers[at].cookie = (cookie, now)
        self.events.append(.sidecarIsBusy)
        return nil
    }

    private func unusedIndex() -> UInt32 {
        while true {
            let index = self.random.nextUInt32()
            let isUsed =
                self.pending.contains { $0.localIndex == index }
                || self.sessions.contains { $0.session.localIndex == index }
            if !isUsed { return index }
        }
    }

    mutating func receiveResponse(
        _ message: ByteBuffer,
        from carrier: CarrierID,
        at now: Instant
    ) -> DropReason? {
        guard Constants.responseSizeAtLeast...Constants.initiationSizes.upperBound ~= message.readableBytes,
            let remoteIndex: UInt32 = message.headerInteger(at: 4),
            let localIndex: UInt32 = message.headerInteger(at: 8),
            let noise = HandshakeMessage.noisePart(of: message, header: HandshakeMessage.responseHeader)
        else { return .malformed }
        guard HandshakeMessage.hasValidMac1(message, self.receivingMac) else { return .wrongMac1 }
        guard let pending = self.pending.first(where: { $0.localIndex == localIndex }) else { return .unknownIndex }
        var payload = ByteBuffer()
        var keys: TransportKeys?
        payload.writeWithOutputRawSpan(minimumWritableBytes: noise.readableBytes) { output in
            keys = pending.handshake.readMessage2(noise.readableBytesSpan, payload: &output)
        }
        guard let keys else {
            self.events.append(.presharedKeysDiffer)
            return .notOpened
        }
        // The response is now known to come from the responder, and this handshake is over.
        self.pending.removeAll { $0 === pending }
        guard let parameters = TransportParameters(reading: &payload) else { return .badParameters }
        // A connection that is closing is not continued, and no other begins beside it.
        if self.isClosing { return .staleResponse }
        if let madeBy = self.madeBy, self.connection != nil, pending.timestamp < madeBy { return .staleResponse }
        let session = keys.split { sending, receiving in
            Session(
                localIndex: localIndex,
                remoteIndex: remoteIndex,
                createdAt: pending.sentAt,
                peerParameters: parameters,
                sendingKey: sending,
                receivingKey: receiving
            )
        }
        // Responses to earlier initiations on that carrier would bring nothing new, and their keys are no longer needed.
        self.pending.removeAll { $0.carrier == pending.carrier && $0.timestamp < pending.timestamp }
        self.adopt(session, of: pending, carrier: carrier, at: now)
        return nil
    }

    private mutating func adopt(_ session: Session, of pending: Pending, carrier: CarrierID, at now: Instant) {
        let timestamp = pending.timestamp
        if let at = self.carriers.firstIndex(where: { $0.id == carrier }) {
            if pending.carrier == carrier { self.carriers[at].handshakeTime = now - pending.sentAt }
            if !self.carriers[at].isAnswered || self.carriers[at].isDark { self.events.append(.answered(carrier)) }
            self.carriers[at].isAnswered = true
            self.carriers[at].isDark = false
            self.carriers[at].retryAt = nil
            self.carriers[at].attempts = 0
        }
        let answered = session.peerParameters.connectionID
        let isOurs = self.connection?.isActive ?? false && self.connection?.id == answered
        if !isOurs {
            self.endConnection(.forgottenByPeer, at: now)
            self.connectionID = answered
            self.madeBy = timestamp
            self.connection = Connection(
                role: .initiator,
                id: answered,
                configuration: self.configuration.tunnel,
                peerParameters: session.peerParameters,
                random: self.random,
                at: now
            )
        }
        self.sessions.append((session, timestamp))
        self.sessions.sort { $0.timestamp < $1.timestamp }
        if self.sessions.count > Constants.sessionsKept { self.sessions.removeFirst() }
        self.choose(isNew: !isOurs, at: now)
    }
}
