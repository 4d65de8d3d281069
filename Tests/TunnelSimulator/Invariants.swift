import Tunnel

/// Checked after every step, whatever the network does.
extension World {
    func checkInvariants() throws(SimulationFailure) {
        for end in self.ends where end.isAwake { try end.checkBounds() }
        guard let responder = self.responder else { return }
        for initiator in self.initiators {
            var one: ConnectionInspection?
            var other: ConnectionInspection?
            try initiator.withConnection { connection throws(SimulationFailure) in one = connection.inspection }
            try responder.withConnection(of: initiator.key) { connection throws(SimulationFailure) in
                other = connection.inspection
            }
            guard let one, let other, one.id == other.id else { continue }
            try self.checkCredit(from: one, to: other)
            try self.checkCredit(from: other, to: one)
        }
    }

    /// RFC 9000 §4.1, for streams and connections: a sender knows no higher limit than was announced, and sends no more than
    /// that.
    private func checkCredit(
        from sender: ConnectionInspection,
        to receiver: ConnectionInspection
    ) throws(SimulationFailure) {
        try self.check(sender.sendUsed <= sender.sendLimit, "more sent than promised")
        try self.check(sender.sendLimit <= receiver.receiveLimit, "a promise that nobody gave")
        try self.check(receiver.received <= sender.sendUsed, "more received than sent")
        for stream in sender.streams {
            guard let other = receiver.streams.first(where: { $0.id == stream.id }) else { continue }
            try self.check(stream.sendUsed <= stream.sendLimit, "\(stream.id): more sent than promised")
            try self.check(stream.sendLimit <= other.receiveLimit, "\(stream.id): a promise that nobody gave")
            try self.check(other.received <= stream.sendUsed, "\(stream.id): more received than sent")
        }
    }

    /// The bounds on what one end keeps for one connection.
    func checkBounds(
        of connection: ConnectionInspection,
        _ configuration: TunnelConfiguration,
        at end: End
    ) throws(SimulationFailure) {
        // The application writes at most this many bytes before it checks whether there is room.
        let slack = 65_536
        // The control stream has room of its own.
        let room = configuration.sendBuffer + min(512 * 1_024, configuration.sendBuffer)
        try self.check(
            connection.sendBuffered <= room + slack * max(1, connection.streams.count),
            "\(end.name) keeps \(connection.sendBuffered) bytes to send"
        )
        try self.check(
            connection.receiveWindow <= max(configuration.maxConnectionWindow, 1_024 * 1_024),
            "\(end.name): the window is \(connection.receiveWindow)"
        )
        try self.check(connection.gaps >= 0 && connection.gaps <= 16_384, "\(end.name): \(connection.gaps) gaps")
        try self.check(
            connection.streams.reduce(0) { $0 + $1.gaps } == connection.gaps,
            "\(end.name): gaps are miscounted"
        )
        try self.check(connection.ackRanges <= 64, "\(end.name): \(connection.ackRanges) ranges to acknowledge")
        try self.check(connection.messagesInFlight <= 32_768, "\(end.name): too many messages in flight")
        if let recovery = connection.recovery {
            try self.check(
                recovery.inFlight == recovery.counted,
                "\(end.name): \(recovery.inFlight) bytes in flight, of which \(recovery.counted) are known"
            )
            try self.check(1_200...65_504 ~= recovery.mtu, "\(end.name): messages of \(recovery.mtu) bytes")
            try self.check(recovery.window >= 2 * 1_200, "\(end.name): a window of \(recovery.window) bytes")
        }
        try self.check(connection.pathResponses <= 8, "\(end.name): \(connection.pathResponses) challenges")
        try self.check(connection.datagramBytes <= 1_024 * 1_024, "\(end.name): too many datagrams wait")
        try self.check(
            connection.events <= 4 * connection.streams.count + 9 + DatagramTraffic.trackedAtMost,
            "\(end.name): \(connection.events) events wait"
        )
    }
}
