public import NIOCore
import Noise

/// Datagrams at the responder: one socket for all peers, who are told apart by what they send and never by where from.
extension Responder {
    /// A datagram came. Strangers get no answer, but for a cookie when their initiation is well made and many come.
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

    /// The socket has no more for now.
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

    /// A peer that is connected from there doesn't depend on what strangers leave. Who forges its address uses up this, and
    /// not what it gets by a cookie.
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

    /// The newest message says where its peer is now. Where that was shown before, answers go there; else it is asked.
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

    /// A new port is a NAT's new mapping of the same path, a new address is another path: RFC 9000 §9.4.
    private mutating func adopt(_ route: DatagramRoute, by link: Link) {
        for entry in link.sessions where !entry.isConfirmed(at: route) { entry.originIsLeft = true }
        if let path = link.path, path.route.remote.isSameHost(as: route.remote) {
            link.path?.route = route
        } else {
            self.nextPath += 1
            link.path = (route, CarrierID(self.nextPath))
        }
    }

    /// The candidate's 8 bytes came back: it is the peer's.
    private mutating func believe(_ link: Link, at now: Instant) {
        let answers = link.connection.takePathResponses()
        guard let candidate = link.candidate, answers.contains(candidate.data), link.connection.isActive else { return }
        let session = link.connection.session ?? candidate.session
        link.candidate = nil
        self.adopt(candidate.route, by: link)
        guard let path = link.path else { return }
        let isSame = link.connection.carrier == path.id
        self.move(link, to: path.id, .datagrams, session: session, at: now)
        if isSame { link.connection.pathWasMoved() }
    }

    /// Only the initiator can choose another way, and may not know that one is needed: where nobody asks anything of it, it
    /// sends little that could stay without an answer.
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

    /// Nothing is sent there any more until a message comes.
    mutating func leavePath(of link: Link, at now: Instant) {
        guard let path = link.path else { return }
        link.path = nil
        link.candidate = nil
        link.connection.carrierClosed(path.id, isLast: link.carriers.isEmpty, at: now)
    }

    // MARK: Sending

    /// The next datagram, appended to the buffer, and where it goes; nil: there is none now.
    public mutating func writeNextDatagram(into buffer: inout ByteBuffer, at now: Instant) -> DatagramRoute? {
        if let answer = self.responses.popFirst() ?? self.cookieReplies.popFirst() {
            buffer.writeImmutableBuffer(answer.message)
            return answer.route
        }
        // Whoever wrote last has more, mostly: nobody else is asked until it has nothing. Its window bounds that.
        if let writer = self.lastWriter, let route = self.write(writer, into: &buffer, at: now) { return route }
        var links: [Link] = []
        self.forEachLink { links.append($0) }
        self.lastWriter = nil
        for link in links {
            guard let route = self.write(link, into: &buffer, at: now) else { continue }
            self.lastWriter = link
            return route
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
        // Room for more to write; or the end, where all numbers are used.
        if wrote, hasEvents { self.collectEvents(link, at: now) }
        return wrote ? path.route : nil
    }

    /// The system refuses messages of this size to this address.
    public mutating func messageTooLong(_ size: Int, to route: DatagramRoute, at now: Instant) {
        self.forEachLink { link in
            guard link.usesDatagrams, link.path?.route.remote == route.remote else { return }
            link.connection.messageTooLong(size, at: now)
        }
    }
}

extension ResponderSession {
    /// Its response went to this address: whoever has opened it receives there.
    fileprivate func isConfirmed(at route: DatagramRoute) -> Bool {
        guard case .datagrams(let origin) = self.origin else { return false }
        return origin.remote == route.remote
    }
}

extension Link {
    /// One candidate at a time, and no new one at once after another: a peer that changes its address a thousand times a
    /// second is followed ten times.
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
        // A path that is to carry messages of the base size shows with the challenge that it does.
        // Frames are padded to whole units: one that was begun is more than is allowed.
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

    /// One that never answered is forgotten, also where too little came from it for three challenges.
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
