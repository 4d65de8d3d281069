package import Noise

/// For this package's own tests, which check it after every step of a simulation: counts and limits, never bytes or keys.
package struct ConnectionInspection {
    package struct Stream {
        package var id: StreamID
        package var sendLimit: UInt64
        package var sendUsed: UInt64
        package var receiveLimit: UInt64
        package var received: UInt64
        package var receiveWindow: UInt64
        package var gaps: Int
    }

    package var id: UInt64
    package var sendLimit: UInt64
    package var sendUsed: UInt64
    package var receiveLimit: UInt64
    package var received: UInt64
    package var receiveWindow: UInt64
    /// Bytes of stream data held, and bytes that the announced limit still lets come.
    package var promised: UInt64
    package var sendBuffered: Int
    package var gaps: Int
    package var ackRanges: Int
    package var messagesInFlight: Int
    /// On datagrams: the bytes in flight as the recovery counts them, the same summed over the messages, the congestion
    /// window, and the MTU.
    package var recovery: (inFlight: Int, counted: Int, window: Int, mtu: Int)?
    package var pathResponses: Int
    /// Entries of all stream queues: a stream is in each at most once.
    package var queued: Int
    /// The larger of the two DATAGRAM queues, overhead included.
    package var datagramBytes: Int
    package var events: Int
    package var streams: [Stream]
}

extension Connection {
    package var number: UInt64 { self.id.rawValue }

    package var inspection: ConnectionInspection {
        ConnectionInspection(
            id: self.id.rawValue,
            sendLimit: self.flow.sendCredit.limit,
            sendUsed: self.flow.sendCredit.used,
            receiveLimit: self.flow.receiveWindow.limit,
            received: self.flow.receiveWindow.received,
            receiveWindow: self.flow.receiveWindow.window,
            promised: self.flow.receiveWindow.promised,
            sendBuffered: self.flow.sendBuffered,
            gaps: self.flow.gapCount,
            ackRanges: self.received.rangeCount,
            messagesInFlight: self.sent.unsettled,
            recovery: self.recovery.map { recovery in
                (
                    recovery.inFlight, self.sent.bytesInFlight(on: self.carrier), recovery.congestion.window,
                    recovery.mtu.current
                )
            },
            pathResponses: self.pathValidation.counts.max() ?? 0,
            queued: self.queues.counts.reduce(0, +),
            datagramBytes: max(self.datagrams.outgoing.byteCount, self.datagrams.incoming.byteCount),
            events: self.events.count,
            streams: self.streams.values.map { stream in
                ConnectionInspection.Stream(
                    id: stream.id,
                    sendLimit: stream.sendCredit.limit,
                    sendUsed: stream.sendCredit.used,
                    receiveLimit: stream.receiveWindow.limit,
                    received: stream.receiveWindow.received,
                    receiveWindow: stream.receiveWindow.window,
                    gaps: stream.receiveBuffer.gapCount
                )
            }
        )
    }

    /// Hashes everything that a message may change: the hash is the same before and after a message that was dropped.
    package func hash(into hasher: inout Hasher) {
        hasher.combine(self.id)
        hasher.combine(self.isActive)
        hasher.combine(self.isClosing)
        if case .closing(let closing) = self.state { hasher.combine(closing.isPending) }
        hasher.combine(self.carrier)
        hasher.combine(self.session?.localIndex)
        hasher.combine(self.numbers.next)
        hasher.combine(self.numbers.nextSkipped)
        hasher.combine(self.numbers.highestReceived)
        hasher.combine(self.sent.unsettled)
        hasher.combine(self.sent.oldestTime)
        hasher.combine(self.received.rangeCount)
        hasher.combine(self.received.largest)
        hasher.combine(self.received.hasUnacknowledged)
        hasher.combine(self.roundTripTime.smoothed)
        hasher.combine(self.flow.sendCredit.limit)
        hasher.combine(self.flow.sendCredit.used)
        hasher.combine(self.flow.receiveWindow.limit)
        hasher.combine(self.flow.receiveWindow.received)
        hasher.combine(self.flow.receiveWindow.consumed)
        hasher.combine(self.flow.sendBuffered)
        hasher.combine(self.flow.gapCount)
        hasher.combine(self.streams.limits)
        hasher.combine(self.queues.controlFrames.rawValue)
        hasher.combine(self.queues.pingIsPending)
        hasher.combine(self.queues.counts)
        hasher.combine(self.datagrams.outgoing.count)
        hasher.combine(self.datagrams.incoming.count)
        hasher.combine(self.liveness)
        hasher.combine(self.pathValidation.counts)
        if let recovery = self.recovery {
            hasher.combine(recovery.inFlight)
            hasher.combine(recovery.largestAcknowledged)
            hasher.combine(recovery.lossTime)
            hasher.combine(recovery.probesDue)
            hasher.combine(recovery.congestion.window)
            hasher.combine(recovery.congestion.pacingRate)
            hasher.combine(recovery.mtu.current)
        }
        hasher.combine(self.events.count)
        hasher.combine(self.statistics.messagesReceived)
        hasher.combine(self.streams.count)
        // A sum, since the order of a dictionary differs between equal connections.
        var streams = 0
        for stream in self.streams.values { streams &+= stream.digest }
        hasher.combine(streams)
    }
}

extension StreamState {
    var digest: Int {
        var hasher = Hasher()
        hasher.combine(self.id)
        hasher.combine(self.sendBuffer.base)
        hasher.combine(self.sendBuffer.sentEnd)
        hasher.combine(self.sendBuffer.end)
        hasher.combine(self.sendBuffer.hasLost)
        hasher.combine(self.urgentToSend.count)
        hasher.combine(self.urgentToRead.count)
        hasher.combine(self.sendCredit.limit)
        hasher.combine(self.finIsSent)
        hasher.combine(self.finIsAcknowledged)
        hasher.combine(self.resetSent?.finalSize)
        hasher.combine(self.resetIsAcknowledged)
        hasher.combine(self.held.rawValue)
        hasher.combine(self.receiveBuffer.next)
        hasher.combine(self.receiveBuffer.readyCount)
        hasher.combine(self.receiveBuffer.gapCount)
        hasher.combine(self.receiveWindow.limit)
        hasher.combine(self.receiveWindow.received)
        hasher.combine(self.receiveWindow.consumed)
        hasher.combine(self.finalSize)
        hasher.combine(self.resetReceived)
        hasher.combine(self.stopRequested)
        hasher.combine(self.endIsTaken)
        hasher.combine(self.queueMarks.controlFrames.rawValue)
        hasher.combine(self.readableIsSignalled)
        hasher.combine(self.wantsWritable)
        return hasher.finalize()
    }
}

extension Initiator {
    /// For counting the secrets that remain after this end is gone.
    package var secretArena: SecretArena { self.arena }
    package var sessionCount: Int { self.sessions.count }
    package var handshakeCount: Int { self.pending.count }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(self.lastTimestamp)
        hasher.combine(self.connectionID)
        hasher.combine(self.madeBy)
        for (session, timestamp) in self.sessions {
            hasher.combine(session.localIndex)
            hasher.combine(timestamp)
        }
        for pending in self.pending { hasher.combine(pending.localIndex) }
        for carrier in self.carriers {
            hasher.combine(carrier.id)
            hasher.combine(carrier.isAnswered)
            hasher.combine(carrier.retryAt)
            hasher.combine(carrier.attempts)
            hasher.combine(carrier.isDark)
            hasher.combine(carrier.isBound)
            hasher.combine(carrier.cookie?.at)
            hasher.combine(carrier.outbox)
        }
        hasher.combine(self.secretArena.liveSecrets)
        self.connection?.hash(into: &hasher)
    }
}

extension Responder {
    package var secretArena: SecretArena { self.arena }
    package var sessionCount: Int { self.sessions.count }

    /// Sessions of this key that no data message has confirmed.
    package func unconfirmedCount(of key: PublicKey) -> Int { self.peers[key]?.unconfirmed.count ?? 0 }

    /// Sessions that the key's connection holds.
    package func sessionCount(of key: PublicKey) -> Int { self.peers[key]?.current?.sessions.count ?? 0 }

    package func closingCount(of key: PublicKey) -> Int { self.peers[key]?.closing.count ?? 0 }

    /// The address that the key's datagrams go to.
    package func path(of key: PublicKey) -> PathAddress? { self.peers[key]?.current?.path?.route.remote }

    package var datagramAnswerCount: Int { self.responses.count + self.cookieReplies.count }

    package func hash(into hasher: inout Hasher) {
        var peers = 0
        for peer in self.peers.values {
            var one = Hasher()
            peer.hash(into: &one)
            peers &+= one.finalize()
        }
        hasher.combine(peers)
        for carrier in self.carriers {
            hasher.combine(carrier.id)
            hasher.combine(carrier.closeAt)
            hasher.combine(carrier.isKnown)
            hasher.combine(carrier.link == nil)
            hasher.combine(carrier.outbox)
        }
        hasher.combine(self.sessions.count)
        hasher.combine(self.revoked.count)
        hasher.combine(self.secretArena.liveSecrets)
    }
}

extension AcceptedPeer {
    fileprivate func hash(into hasher: inout Hasher) {
        hasher.combine(self.key)
        hasher.combine(self.greatestTimestamp)
        for session in self.unconfirmed { hasher.combine(session.session.localIndex) }
        for expected in self.expected { hasher.combine(expected.id) }
        for link in self.closing { link.hash(into: &hasher) }
        self.current?.hash(into: &hasher)
    }
}

extension Link {
    fileprivate func hash(into hasher: inout Hasher) {
        hasher.combine(self.secondName)
        hasher.combine(self.carriers)
        hasher.combine(self.path?.route)
        hasher.combine(self.candidate?.route)
        hasher.combine(self.candidate?.data)
        hasher.combine(self.candidate?.bytesReceived)
        for session in self.sessions { hasher.combine(session.session.localIndex) }
        self.connection.hash(into: &hasher)
    }
}
