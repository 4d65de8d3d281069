import NIOCore
import Noise
import Tunnel

/// One seed's whole course: two or three ends, a time of trouble, then quiet, in which all that was begun must end.
public struct Simulation {
    public let world: World

    public init(seed: UInt64) {
        self.world = World(seed: seed)
    }

    public func run() throws(SimulationFailure) {
        let world = self.world
        let responder = ResponderEnd(
            "responder",
            staticKey: SimulatedKeys.responder,
            configuration: .init(),
            world: world
        )
        responder.streamsToOpen = 10
        world.add(responder)
        let key = SimulatedKeys.initiators[0]
        let initiator = InitiatorEnd(
            "initiator",
            Initiator.Configuration(staticKey: key, responder: SimulatedKeys.responder.publicKey),
            world: world
        )
        world.add(initiator)
        responder.accept(key.publicKey)
        try world.run(for: .seconds(5))
        world.isSettling = true
        try self.settle()
        try self.finish()
    }

    func settle() throws(SimulationFailure) {
        let world = self.world
        let isComplete = try world.run(atMost: .minutes(10)) { world.isComplete }
        guard isComplete else { throw world.failure("not all came to an end: \(world.unfinished)") }
    }

    func finish() throws(SimulationFailure) {
        let world = self.world
        for initiator in world.initiators { initiator.finish() }
        try world.run(for: .seconds(12))
        for initiator in world.initiators {
            try world.check(initiator.tunnel.secretArena.liveSecrets == 0, "\(initiator.name) keeps secrets")
        }
        if let responder = world.responder {
            try world.check(!responder.tunnel.hasConnections, "the responder keeps a connection")
            try world.check(responder.tunnel.secretArena.liveSecrets == 0, "the responder keeps secrets")
        }
    }
}

extension World {
    /// Every connection that is held by both sides has done what it was to do.
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

    var unfinished: String {
        self.initiators.map { initiator in
            let other = self.responder?.traffic[initiator.key]
            return "\(initiator.name): \(initiator.traffic?.unfinished ?? "no connection"); "
                + "responder: \(other?.unfinished ?? "no connection")"
        }.joined(separator: "\n")
    }
}

extension Ledger {
    /// Stream 0 has no end: all that was written on it has been read.
    func isControlRead(_ connection: UInt64) -> Bool {
        for sender in [Role.initiator, .responder] {
            let key = Key(connection: connection, stream: .control, sender: sender)
            guard let direction = self.directions[key], direction.read == direction.written else { return false }
        }
        return true
    }
}
