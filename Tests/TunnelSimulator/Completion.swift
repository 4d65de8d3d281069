import Tunnel

extension World {
    /// Whether every program that still runs has a connection, both sides take each other to be live, and all streams have
    /// ended.
    var isComplete: Bool {
        guard let responder else { return true }
        for initiator in self.initiators where initiator.isRunning {
            guard let traffic = initiator.traffic, let other = responder.traffic[initiator.key],
                traffic.connection == other.connection, traffic.isComplete, other.isComplete
            else { return false }
            var presences: [Presence] = []
            var open = 0
            _ = initiator.tunnel.withConnection {
                presences.append($0.presence)
                open += $0.openStreamCount
            }
            _ = responder.tunnel.withConnection(of: initiator.key) {
                presences.append($0.presence)
                open += $0.openStreamCount
            }
            guard presences == [.live, .live], open == 0 else { return false }
            guard self.ledger.isControlRead(traffic.connection) else { return false }
        }
        return true
    }

    /// What is unfinished, for a failure's text.
    var unfinished: String {
        self.initiators.map { initiator in
            let other = self.responder?.traffic[initiator.key]
            var ends: [String] = []
            func note(_ name: String, _ traffic: Traffic?, _ connection: inout Connection) {
                ends.append(
                    "\(name): \(connection.presence), \(traffic?.unfinished ?? "no traffic"), \(connection.inspection)"
                )
            }
            _ = initiator.tunnel.withConnection { note(initiator.name, initiator.traffic, &$0) }
            _ = self.responder?.tunnel.withConnection(of: initiator.key) { note("responder", other, &$0) }
            if let traffic = initiator.traffic {
                ends.append("all control messages read: \(self.ledger.isControlRead(traffic.connection))")
            }
            return ends.joined(separator: "; ")
        }.joined(separator: "\n")
    }
}

extension Ledger {
    /// Stream 0 doesn't end: it is done when all that was written on it was read.
    func isControlRead(_ connection: UInt64) -> Bool {
        for sender in [Role.initiator, .responder] {
            let key = Key(connection: connection, stream: .control, sender: sender)
            guard let direction = self.directions[key], direction.read == direction.written else { return false }
        }
        return true
    }
}
