import NIOCore
import Noise
import Tunnel

/// One seed's simulation: two or three ends, a time of trouble, then a quiet time in which everything that was begun must
/// end.
public struct Simulation {
    public let world: World
    private let random: SeededRandom
    private let configuration: TunnelConfiguration
    private let duration: Int64
    /// A summary of what the seed has drawn, in one line.
    public private(set) var title = ""

    private static let second: Int64 = 1_000_000_000

    /// - Parameter resetsAsTCP: whether some streams are given up by a TCP reset. false reproduces a seed's course from
    ///   before such resets were held.
    public init(seed: UInt64, resetsAsTCP: Bool = true) {
        let world = World(seed: seed)
        let random = world.random
        self.world = world
        self.random = random
        self.configuration = Self.configuration(random)
        // Sometimes long enough for sessions to expire.
        self.duration = (random.isOne(in: 16) ? random.between(100...500) : random.between(1...20)) * Self.second
        self.setUpEnds()
        self.setUpNetwork()
        self.setUpLines()
        self.setUpTrouble()
        self.world.limits.resetsAsTCP = resetsAsTCP
    }

    private static func configuration(_ random: SeededRandom) -> TunnelConfiguration {
        var configuration = TunnelConfiguration()
        configuration.deadAfter = .milliseconds(Int64(random.between(1_000...8_000)))
        configuration.linger = random.isOne(in: 3) ? .seconds(Int64(random.between(1...40))) : .minutes(10)
        configuration.maxMessageSize = random.logarithmic(1_280...65_552)
        configuration.maxConnectionWindow = UInt64(random.logarithmic(16 * 1_024...16 * 1_024 * 1_024))
        configuration.sendBuffer = random.logarithmic(32 * 1_024...16 * 1_024 * 1_024)
        return configuration
    }

    // MARK: Ends

    private func setUpEnds() {
        var configuration = self.configuration
        configuration.maxStreamsFromPeer = 1
        // Drawn from another generator, so that the rest of a seed's course is as it was before these draws were added.
        let random = SeededRandom(seed: self.world.seed ^ 0x6d65_6d6f_7279)
        configuration.streamMemory = UInt64(random.logarithmic(16 * 1_024...64 * 1_024 * 1_024))
        configuration.connectionMemoryAtLeast = UInt64(random.logarithmic(16 * 1_024...1_024 * 1_024))
        let responder = ResponderEnd(
            "responder",
            staticKey: SimulatedKeys.responder,
            configuration: configuration,
            world: self.world
        )
        responder.streamsToOpen = self.random.between(0...16)
        self.world.add(responder)
        // One initiator, two with different keys, or two programs with the same key.
        self.addInitiator("initiator", SimulatedKeys.initiators[0], responder)
        switch self.random.between(0...9) {
        case 0: self.addInitiator("second", SimulatedKeys.initiators[0], responder)
        case 1, 2: self.addInitiator("other", SimulatedKeys.initiators[1], responder)
        default: break
        }
    }

    private func addInitiator(_ name: String, _ key: StaticKeyPair, _ responder: ResponderEnd) {
        let presharedKey = self.random.isOne(in: 2) ? SimulatedKeys.presharedKey : .none
        var configuration = Initiator.Configuration(
            staticKey: key,
            responder: SimulatedKeys.responder.publicKey,
            presharedKey: responder.presharedKey(of: key.publicKey) ?? presharedKey
        )
        configuration.tunnel = self.configuration
        configuration.tunnel.maxStreamsFromPeer = UInt64(self.random.logarithmic(1...64))
        self.world.add(InitiatorEnd(name, configuration, world: self.world))
        responder.accept(key.publicKey, presharedKey: configuration.presharedKey)
    }

    // MARK: Network

    private func setUpNetwork() {
        let world = self.world
        let latency = Int64(self.random.logarithmic(10_000...100_000_000))
        // A full pipe and one more message must drain in less time than `dead_after`.
        let capacity = self.random.logarithmic(2_048...512 * 1_024)
        let patience = self.configuration.deadAfter.nanoseconds / 6
        let slowest = max(20_000, Int(Int64(capacity + self.configuration.maxMessageSize) * Self.second / patience))
        let bytesPerSecond = self.random.logarithmic(slowest...1_000_000_000)
        let pieces = 1...self.random.logarithmic(max(256, capacity / 64)...65_536)
        let cuts = self.random.isOne(in: 2)
        let corrupts = self.random.isOne(in: 6)
        world.shapeCarrier = { world in
            let random = world.random
            var shape = SimulatedCarrier.Shape()
            shape.up = Pipe.Shape(latency: latency, bytesPerSecond: bytesPerSecond, capacity: capacity, pieces: pieces)
            shape.down = shape.up
            shape.isAbrupt = random.isOne(in: 2)
            if world.isSettling { return shape }
            if world.now < world.offlineUntil {
                shape.breaksUpAt = 0
                shape.breaksDownAt = 0
                shape.dialerLearnsAfter = random.between(0...2 * Self.second)
                shape.acceptorLearnsAfter = nil
                return shape
            }
            if cuts {
                shape.breaksUpAt = random.logarithmic(1...1_000_000)
                shape.breaksDownAt = random.logarithmic(1...1_000_000)
                shape.dialerLearnsAfter = random.isOne(in: 4) ? nil : random.between(0...Self.second)
                shape.acceptorLearnsAfter = random.isOne(in: 4) ? nil : random.between(0...Self.second)
            }
            if corrupts {
                shape.corruptsUpAt = random.logarithmic(1...200_000)
                shape.corruptsDownAt = random.logarithmic(1...200_000)
            }
            return shape
        }
        world.attacker = Attacker(world, rarity: self.random.logarithmic(2...200))
        world.limits.sizes = 0...self.random.logarithmic(1_000...400_000)
        world.openPause = Int64(self.random.logarithmic(2_000_000...1_000_000_000))
    }

    /// Half of the worlds have datagrams, too; a third of the ends with datagrams have no byte streams.
    private func setUpLines() {
        guard self.random.isOne(in: 2) else { return }
        for initiator in self.world.initiators where !self.random.isOne(in: 4) {
            let line = DatagramLine(initiator, self.laneShape(), random: self.random.fork())
            line.refusesAbove = self.random.isOne(in: 4) ? self.random.between(1_200...9_000) : nil
            initiator.line = line
            initiator.hasStreams = !self.random.isOne(in: 3)
            self.world.lines.append(line)
        }
    }

    private func laneShape() -> DatagramLane.Shape {
        var shape = DatagramLane.Shape()
        shape.latency = Int64(self.random.logarithmic(50_000...150_000_000))
        shape.jitter = self.random.isOne(in: 2) ? self.random.between(0...shape.latency) : 0
        shape.bytesPerSecond = self.random.logarithmic(50_000...1_000_000_000)
        // A full queue drains in less time than `dead_after`.
        let longest = Int64(shape.bytesPerSecond) * self.configuration.deadAfter.nanoseconds / (4 * Self.second)
        shape.queue = self.random.logarithmic(4_096...max(8_192, min(1_024 * 1_024, Int(longest))))
        shape.lost = self.random.isOne(in: 3) ? 0 : self.random.logarithmic(1...300)
        shape.burst = self.random.isOne(in: 3) ? self.random.between(1...8) : 1
        shape.repeated = self.random.isOne(in: 4) ? self.random.logarithmic(1...100) : 0
        shape.grain = Int64(self.random.logarithmic(1...2_000_000))
        if self.random.isOne(in: 3) { shape.mtu = self.random.between(1_200...9_000) }
        return shape
    }

    private func setUpTrouble() {
        let count = self.random.isOne(in: 8) ? 0 : self.random.logarithmic(1...16)
        for _ in 0..<count {
            let trouble = self.random.pick(Trouble.allCases)
            self.world.at(self.random.between(0...self.duration)) { world throws(SimulationFailure) in
                try trouble.happen(to: world)
            }
        }
    }

    // MARK: The course

    public func run() throws(SimulationFailure) {
        try self.world.run(until: self.duration)
        self.world.isSettling = true
        self.world.removeStrangers()
        for carrier in self.world.liveCarriers { carrier.heal() }
        for line in self.world.lines { line.heal() }
        self.world.log("quiet")
        // Sleeping ends wake up first: until then nothing shows that anything is wrong.
        try self.world.run(until: self.world.ends.map(\.asleepUntil).max() ?? self.world.now)
        try self.world.run(for: self.configuration.deadAfter + self.configuration.deadAfter)
        let isComplete = try self.world.run(atMost: .hours(24)) { self.world.isComplete }
        guard isComplete else { throw self.world.failure("not all came to an end: \(self.world.unfinished)") }
        try self.finish()
    }

    private func finish() throws(SimulationFailure) {
        let world = self.world
        world.log("the end")
        for initiator in world.initiators { initiator.finish() }
        try world.run(for: .seconds(30))
        // If CONNECTION_CLOSE was lost, the peer's end shows only by its silence, and the connection ends after `linger`.
        if !world.lines.isEmpty { try world.run(for: self.configuration.linger + .minutes(4)) }
        for initiator in world.initiators {
            try world.check(initiator.tunnel.secretArena.liveSecrets == 0, "\(initiator.name) keeps secrets")
        }
        if let responder = world.responder {
            try world.check(!responder.tunnel.hasConnections, "the responder keeps a connection")
            try world.check(responder.tunnel.secretArena.liveSecrets == 0, "the responder keeps secrets")
        }
    }
}
