public import NIOCore
import Noise

/// Datagrams at the responder: one socket for all peers. A session's index says which peer a datagram is from, never its
/// source address.
extension Responder {
    /// Takes a received datagram. A stranger gets no answer, except a cookie if its initiation has a right mac1 and many
    /// come.
    public mutating func receive(
        datagram message: ByteBuffer,
        from route: DatagramRoute,
        at now: Instant
    ) -> MessageVerdict {
        self.notice(now)
        self.framesInLastMessage = 0
        guard let type = OuterMessageType(of: message) else { return self.drops.count(.malformed) }
        let dropped: DropReason?
        switch type {
        case .data: dropped = self.receiveData(message, from: route, at: now)
        case .initiation: dropped = self.receiveInitiation(message, from: route, at: now)
        case .response, .cookieReply: dropped = .wrongRole
        }
        guard let dropped else { return .taken }
        return self.drops.count(dropped)
    }

    /// The driver has read all datagrams that the socket had.
    public mutating func readAllDatagrams() { self.turn.end() }

    // MARK: Handshake

    private mutating func receiveInitiation(
        _ message: ByteBuffer,
        from route: DatagramRoute,
        at now: Instant
    ) -> DropReason? {
        guard message.readableBytes == Constants.baseDatagramSize else { return .malformed }
        guard let initiation = ReceivedInitiation(message, self.receivingMac) else {
            return ReceivedInitiation.whyNot(message)
        }
        if self.allowsRekey(from: route, at: now) { return self.receive(initiation, from: .datagrams(route), at: now) }
        switch self.admission.judge(
            from: route.remote,
            at: now,
            isCookieRight: { HandshakeMessage.hasMac2(message, of: $0) }
        )
        {
        case .open: return self.receive(initiation, from: .datagrams(route), at: now)
        case .drop: return .overBudget
        case .cookie(let cookie):
            if let mac1 = HandshakeMessage.mac1(of: message) {
                let reply = HandshakeMessage.writeCookieReply(
                    cookie,
                    to: initiation.remoteIndex,
                    answering: mac1,
                    self.cookieKey,
                    random: self.random
                )
                if self.cookieReplies.count < Constants.datagramAnswersKept {
                    self.cookieReplies.append((route, reply))
                }
            }
            return .overBudget
        }
    }

    /// A peer that is connected from this address has its own limit and needs no share of the strangers' budget. A spoofer of
    /// that address can exhaust this limit only; handshakes with a valid cookie have their own.
    private func allowsRekey(from route: DatagramRoute, at now: Instant) -> Bool {
        for peer in self.peers.values {
            guard let link = peer.current, link.path?.route.remote == route.remote else { continue }
            return link.datagramHandshakes.allows(at: now)
        }
        return false
    }

    // MARK: Data

    private mutating func receiveData(
        _ message: ByteBuffer,
        from route: DatagramRoute,
        at now: Instant
    ) -> DropReason? {
        guard let header = DataHeader(of: message) else { return .malformed }
        guard let entry = self.sessions[header.receiver] else { return .unknownIndex }
        if let link = entry.link, self.turn.isOver(for: &link.part, at: now) { return .overShare }
        var plaintext = self.plaintext.take(forMessageOf: message.readableBytes)
        if let reason = entry.session.open(message, header, into: &plaintext, at: now) {
            if entry.session.isWornOut { self.remove(entry) }
            return reason
        }
        let number = header.counter
        guard let link = entry.link ?? self.confirm(entry, at: now) else { return .keyTooOld }
        self.follow(
            link,
            entry,
            to: route,
            number: number,
            size: message.readableBytes,
            isEmpty: plaintext.readableBytes == 0,
            at: now
        )
        self.framesInLastMessage = link.connection.receive(
            frames: plaintext,
            number: number,
            bytes: message.readableBytes,
            over: .datagrams,
            at: now
        )
        self.turn.spend(1 + self.framesInLastMessage, of: &link.part)
        self.plaintext.giveBack(plaintext)
        self.believe(link, at: now)
        self.collectWhatIsUrgent(link, at: now)
        return nil
    }

    /// The message with the highest number says where the peer is now. If that address has been validated, answers go there;
    /// otherwise it is challenged.
    private mutating func follow(
        _ link: Link,
        _ entry: ResponderSession,
        to route: DatagramRoute,
        number: UInt64,
        size: Int,
        isEmpty: Bool,
        at now: Instant
    ) {
        if link.candidate?.route.remote == route.remote { link.candidate?.bytesReceived += size }
        guard !isEmpty, link.connection.isNewest(number) else { return }
        if link.path?.route.remote == route.remote {
            link.path?.route = route
        } else if !entry.originIsLeft, entry.isConfirmed(at: route) {
            self.adopt(route, by: link)
        } else {
            link.challenge(route, by: entry.session, size: size, data: self.random.next(), at: now)
            return
        }
        link.candidate = nil
        guard let path = link.path else { return }
        self.move(link, to: path.id, .datagrams, session: entry.session, at: now)
    }

    /// Makes an address the path. A new port is a NAT's new mapping of the same path, a new address is another path: RFC 9000
    /// §9.4.
    private mutating func adopt(_ route: DatagramRoute, by link: Link) {
        for entry in link.sessions where !entry.isConfirmed(at: route) { entry.originIsLeft = true }
        if let path = link.path, path.route.remote.isSameHost(as: route.remote) {
            link.path?.route = route
        } else {
            self.nextPath += 1
            link.path = (route, CarrierID(self.nextPath))
        }
    }

    /// Completes path validation: if the candidate's 8 bytes came back, its address becomes the path.
    private mutating func believe(_ link: Link, at now: Instant) {
        let answers = link.connection.pathValidation.takeAnswers()
        guard let candidate = link.candidate, answers.contains(candidate.data), link.connection.isActive else { return }
        let session = link.connection.session ?? candidate.session
        link.candidate = nil
        self.adopt(candidate.route, by: link)
        guard let path = link.path else { return }
        let isSame = link.connection.carrier == path.id
        self.move(link, to: path.id, .datagrams, session: session, at: now)
        if isSame { link.connection.pathWasMoved() }
    }

    /// Only the initiator can switch carriers, and an idle one may not notice that datagrams fail: tell it over the byte
    /// stream.
    mutating func nudge(_ link: Link, at now: Instant) {
        guard link.usesDatagrams, link.connection.isDark(at: now) else {
            link.isNudged = false
            return
        }
        guard !link.isNudged, let id = link.carriers.last,
            let at = self.carriers.firstIndex(where: { $0.id == id })
        else { return }
        var message = ByteBuffer()
        guard link.connection.writeNudge(into: &message, at: now) else { return }
        link.isNudged = true
        self.carriers[at].outbox.append(message)
    }

    /// Abandons the path: no datagram is sent to the peer until a message comes.
    mutating func leavePath(of link: Link, at now: Instant) {
        guard let path = link.path else { return }
        link.path = nil
        link.candidate = nil
        link.connection.carrierClosed(path.id, isLast: link.carriers.isEmpty, at: now)
    }

    // MARK: Sending

    /// Appends the next datagram to the buffer, and returns where it goes; nil: there is none now.
    public mutating func writeNextDatagram(into buffer: inout ByteBuffer, at now: Instant) -> DatagramRoute? {
        if let answer = self.responses.popFirst() ?? self.cookieReplies.popFirst() {
            buffer.writeImmutableBuffer(answer.message)
            return answer.route
        }
        // The connection that wrote last mostly has more, so it is asked first until it has nothing. Its congestion window
        // bounds that.
        if let writer = self.lastWriter, let route = self.write(writer, into: &buffer, at: now) { return route }
        self.lastWriter = nil
        for peer in self.peers.values {
            if let link = peer.current, let route = self.write(link, into: &buffer, at: now) {
                self.lastWriter = link
                return route
            }
            if let route = self.writeClosing(of: peer, into: &buffer, at: now) { return route }
        }
        for peer in self.revoked {
            if let route = self.writeClosing(of: peer, into: &buffer, at: now) { return route }
        }
        return nil
    }

    /// Of the peer's earlier connections.
    private mutating func writeClosing(
        of peer: AcceptedPeer,
        into buffer: inout ByteBuffer,
        at now: Instant
    ) -> DatagramRoute? {
        for link in peer.closing {
            if let route = self.write(link, into: &buffer, at: now) { return route }
        }
        return nil
    }

    private mutating func write(_ link: Link, into buffer: inout ByteBuffer, at now: Instant) -> DatagramRoute? {
        if let route = link.writeChallenge(into: &buffer, at: now) { return route }
        guard let path = link.path else { return nil }
        let (wrote, hasEvents) = link.connection.apply { connection in
            let wrote = connection.writeNext(into: &buffer, onlyOn: path.id, at: now)
            return (wrote, connection.hasEvents)
        }
        // Sending may have made streams writable again, or used up the message numbers, which ends the connection.
        if wrote, hasEvents { self.collectEvents(link, at: now) }
        return wrote ? path.route : nil
    }

    /// The kernel refuses messages of this size to this address.
    public mutating func messageTooLong(_ size: Int, to route: DatagramRoute, at now: Instant) {
        self.forEachLink { link in
            guard link.usesDatagrams, link.path?.route.remote == route.remote else { return }
            link.connection.messageTooLong(size, at: now)
        }
    }
}

extension ResponderSession {
    /// Whether the response went to this address: a peer that opened it receives there.
    fileprivate func isConfirmed(at route: DatagramRoute) -> Bool {
        guard case .datagrams(let origin) = self.origin else { return false }
        return origin.remote == route.remote
    }
}

extension Link {
    /// Makes an address the candidate. There is one at a time, and a new one no sooner than 100 ms after the last: a peer
    /// that changes its address a thousand times a second is followed ten times.
    fileprivate func challenge(_ route: DatagramRoute, by session: Session, size: Int, data: UInt64, at now: Instant) {
        if let candidate = self.candidate {
            guard candidate.route.remote != route.remote else { return }
        }
        if let last = self.challengedAt, now >= last, now - last < Constants.candidateInterval { return }
        self.challengedAt = now
        self.candidate = PathCandidate(route: route, session: session, data: data, since: now, bytesReceived: size)
    }

    fileprivate func writeChallenge(into buffer: inout ByteBuffer, at now: Instant) -> DatagramRoute? {
        guard let candidate = self.candidate, candidate.sent < Constants.challengesPerCandidate,
            candidate.sendAt.map({ now >= $0 }) ?? true
        else { return nil }
        let allowed = Constants.amplification * candidate.bytesReceived - candidate.bytesSent
        // A challenge of the base size shows that the path carries it. Since frames are padded to whole units, the size that
        // is allowed is rounded down.
        let units = (min(Constants.baseDatagramSize, allowed) - Constants.dataOverhead) / Constants.paddingUnit
        let size = Constants.dataOverhead + units * Constants.paddingUnit
        let start = buffer.writerIndex
        guard units >= 1,
            self.connection.writeChallenge(
                candidate.data,
                size: size,
                into: &buffer,
                with: self.connection.session ?? candidate.session,
                at: now
            )
        else {
            self.candidate?.sendAt = now + self.connection.roundTripTime.probeTimeout
            return nil
        }
        self.candidate?.bytesSent += buffer.writerIndex - start
        self.candidate?.sent += 1
        self.candidate?.sendAt = now + self.connection.roundTripTime.probeTimeout
        return candidate.route
    }

    /// Forgets a candidate that has not answered, also where the anti-amplification limit allowed fewer than three
    /// challenges.
    func handleCandidate(at now: Instant) {
        guard let candidate = self.candidate, let sendAt = candidate.sendAt, now >= sendAt else { return }
        let patience = Int64(Constants.challengesPerCandidate) * self.connection.roundTripTime.probeTimeout.nanoseconds
        if candidate.sent >= Constants.challengesPerCandidate || now - candidate.since > .nanoseconds(patience) {
            self.candidate = nil
        } else {
            self.candidate?.sendAt = nil
        }
    }
}
