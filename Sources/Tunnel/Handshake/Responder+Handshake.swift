import NIOCore
import Noise

/// Answers initiations. The first data message of a session confirms it: the session then begins a connection, or joins the
/// one held.
extension Responder {
    /// Opens an initiation whose mac1 is right and which admission allowed.
    mutating func receive(_ initiation: ReceivedInitiation, from origin: Origin, at now: Instant) -> DropReason? {
        let noise = initiation.noise
        let opened = HandshakeMessage.withPrologue { prologue in
            ResponderHandshake(
                message1: noise.readableBytesSpan,
                staticKey: self.staticKey,
                prologue: prologue,
                arena: self.arena
            )
        }
        guard var handshake = opened else { return .notOpened }
        guard let peer = self.peers[handshake.initiator] else { return .keyNotAccepted }
        var payload = ByteBuffer()
        var isOpened = false
        payload.writeWithOutputRawSpan(minimumWritableBytes: noise.readableBytes) { output in
            isOpened = handshake.readPayload(noise.readableBytesSpan, into: &output)
        }
        guard isOpened else { return .notOpened }
        guard let timestamp = TAI64N(reading: &payload) else { return .badParameters }
        if let greatest = peer.greatestTimestamp, timestamp <= greatest {
            self.lastOldTimestamp = (timestamp, greatest)
            return .oldTimestamp
        }
        guard let parameters = TransportParameters(reading: &payload) else { return .badParameters }
        // Counted only now: neither a replay nor a sender that doesn't have the key can use up its owner's limit.
        guard peer.rate.allows(at: now) else { return .overBudget }
        // A byte stream that carries a connection belongs to that connection's key only.
        if case .stream(let id) = origin, let bound = self.carriers.first(where: { $0.id == id })?.link,
            bound.peer !== peer
        {
            return .otherConnection
        }
        return self.respond(
            to: peer,
            handshake,
            parameters: parameters,
            timestamp: timestamp,
            initiation: initiation,
            origin: origin,
            at: now
        )
    }

    private mutating func respond(
        to peer: AcceptedPeer,
        _ handshake: consuming ResponderHandshake,
        parameters: TransportParameters,
        timestamp: TAI64N,
        initiation: ReceivedInitiation,
        origin: Origin,
        at now: Instant
    ) -> DropReason? {
        var handshake = handshake
        let answered = self.answer(to: parameters.connectionID, of: peer, at: now)
        let localIndex = self.unusedIndex()
        var payload = ByteBuffer()
        self.configuration.parameters(answered, sharesMemory: true).write(into: &payload)
        if case .datagrams = origin {
            // As long as the initiation: this shows that the path carries this size, and amplifies nothing.
            let overhead = HandshakeMessage.responseHeader + ResponderHandshake.message2Overhead + HandshakeMessage.macs
            TransportParameters.writePadding(initiation.size - overhead - payload.readableBytes, into: &payload)
        }

        var message = ByteBuffer()
        message.writeInteger(OuterMessageType.response.rawValue, endianness: .little)
        message.writeInteger(localIndex, endianness: .little)
        message.writeInteger(initiation.remoteIndex, endianness: .little)
        let room = ResponderHandshake.message2Overhead + payload.readableBytes
        var made: TransportKeys?
        message.writeWithOutputRawSpan(minimumWritableBytes: room) { output in
            made = handshake.writeMessage2(
                presharedKey: peer.presharedKey,
                payload: payload.readableBytesSpan,
                random: self.random,
                into: &output
            )
        }
        guard let keys = made, message.readableBytes + HandshakeMessage.macs <= initiation.size else {
            return .malformed
        }
        HandshakeMessage.appendMacs(MacKey(receiver: peer.key), to: &message)

        let session = keys.split { sending, receiving in
            Session(
                localIndex: localIndex,
                remoteIndex: initiation.remoteIndex,
                createdAt: now,
                peerParameters: parameters,
                sendingKey: sending,
                receivingKey: receiving
            )
        }
        peer.greatestTimestamp = timestamp
        let entry = ResponderSession(session: session, peer: peer, origin: origin, answered: answered)
        if peer.unconfirmed.count >= Constants.unconfirmedSessionsKept, let oldest = peer.unconfirmed.first {
            self.remove(oldest)
        }
        peer.unconfirmed.append(entry)
        self.sessions[localIndex] = entry
        if peer.current?.connection.id != answered {
            // An expected connection lives as long as the newest session that may confirm it.
            let asked = peer.expected.first { $0.id == answered }?.askedAs ?? parameters.connectionID
            peer.expected.removeAll { $0.id == answered }
            if peer.expected.count >= Constants.unconfirmedSessionsKept { peer.expected.removeFirst() }
            peer.expected.append(ExpectedConnection(id: answered, askedAs: asked, madeAt: now))
        }
        self.send(response: message, of: peer, to: origin, at: now)
        return nil
    }

    private mutating func send(response message: ByteBuffer, of peer: AcceptedPeer, to origin: Origin, at now: Instant)
    {
        switch origin {
        case .datagrams(let route):
            if self.responses.count >= Constants.datagramAnswersKept { self.responses.removeFirst() }
            self.responses.append((route, message))
        case .stream(let id):
            guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
            self.carriers[at].isKnown = true
            if self.carriers[at].link == nil {
                self.carriers[at].closeAt = now + Constants.silenceBeforeClose
                self.carriers[at].asker = peer
            }
            if self.carriers[at].outbox.count >= Constants.unconfirmedSessionsKept {
                self.carriers[at].outbox.removeFirst()
            }
            self.carriers[at].outbox.append(message)
            self.dropUnused(of: peer, at: now)
        }
    }

    /// Bounds the streams on which an initiation of this key was answered and no session was confirmed: at most as many as
    /// there may be unconfirmed sessions.
    private mutating func dropUnused(of peer: AcceptedPeer, at now: Instant) {
        let unused = self.carriers.filter { $0.link == nil && $0.asker === peer }
        guard unused.count > Constants.unconfirmedSessionsKept, let oldest = unused.first else { return }
        self.dropCarrier(oldest.id, at: now)
    }

    /// The connection id that answers an initiation naming `id`: the held connection's, an expected one's, or a new one.
    private func answer(to id: ConnectionID, of peer: AcceptedPeer, at now: Instant) -> ConnectionID {
        if let link = peer.current, link.connection.isActive, link.connection.id == id || link.secondName == id {
            return link.connection.id
        }
        if let expected = peer.expected.first(where: { $0.askedAs == id || $0.id == id }) { return expected.id }
        return ConnectionID(rawValue: self.random.next())
    }

    private func unusedIndex() -> UInt32 {
        while true {
            let index = self.random.nextUInt32()
            if self.sessions[index] == nil { return index }
        }
    }

    /// Confirms a session, whose first data message has opened. Only now does the handshake change anything.
    mutating func confirm(_ entry: ResponderSession, at now: Instant) -> Link? {
        let peer = entry.peer
        if let link = peer.current, link.connection.isActive, link.connection.id == entry.answered {
            peer.unconfirmed.removeAll { $0 === entry }
            self.adopt(entry, by: link)
            return link
        }
        // The connection that the session was to join has ended, or is no longer expected: the session expires unused.
        guard let expected = peer.expected.first(where: { $0.id == entry.answered }) else { return nil }
        peer.unconfirmed.removeAll { $0 === entry }
        peer.expected.removeAll { $0.id == entry.answered }
        if let earlier = peer.current {
            earlier.connection.close(.replaced, at: now)
            self.collectEvents(earlier, at: now)
            self.retire(earlier)
        }
        let connection = Connection(
            role: .responder,
            id: entry.answered,
            configuration: self.configuration,
            peerParameters: entry.session.peerParameters,
            random: self.random,
            sharing: self.memory,
            at: now
        )
        let link = Link(peer: peer, secondName: expected.askedAs, connection: connection)
        peer.current = link
        self.adopt(entry, by: link)
        self.events.append(.established(peer.key))
        return link
    }

    private mutating func adopt(_ entry: ResponderSession, by link: Link) {
        entry.link = link
        link.sessions.append(entry)
        if link.sessions.count > Constants.sessionsKept, let oldest = link.sessions.first { self.remove(oldest) }
    }
}
