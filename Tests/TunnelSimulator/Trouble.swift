import NIOCore
import Tunnel

/// A fault that the simulation causes.
enum Trouble: CaseIterable {
    case cut
    case cutSilently
    case dialAnother
    case dialSeveral
    case offline
    case sleepHere
    case sleepThere
    case sleepBoth
    case clockLeaps
    case dateChanges
    case initiatorRestarts
    case responderRestarts
    case stranger
    case strangers
    case natRebinds
    case addressChanges
    case addressFlaps
    case datagramsBlocked
    case upBlocked
    case downBlocked
    case pathShrinks
    case pathGrows
    case lossGrows
    case flood

    private static let eightHours: Int64 = 8 * 3_600 * 1_000_000_000
    private static let nanosecondsAtMost: Int64 = 30_000_000_000

    func happen(to world: World) throws(SimulationFailure) {
        guard let responder = world.responder else { return }
        let random = world.random
        let initiator = random.pick(world.initiators)
        world.log("trouble: \(self)")
        // While one end sleeps, perhaps for hours, no other end falls asleep or wakes.
        if [.sleepHere, .sleepThere, .sleepBoth].contains(self), world.ends.contains(where: { !$0.isAwake }) { return }
        switch self {
        case .cut: random.pickOrNone(world.liveCarriers)?.cut(at: world.now, losing: random.isOne(in: 2))
        case .cutSilently:
            // Neither end is told: both wait for answers that don't come.
            random.pickOrNone(world.liveCarriers)?.swallow()
        case .dialAnother: if initiator.isRunning { world.dial(initiator) }
        case .dialSeveral:
            for _ in 0..<random.between(2...6) where initiator.isRunning { world.dial(initiator) }
        case .offline:
            world.offlineUntil = world.now + random.between(0...2 * Self.nanosecondsAtMost)
            for carrier in world.liveCarriers { carrier.cut(at: world.now, losing: random.isOne(in: 2)) }
            for line in world.lines { line.isDark(until: world.offlineUntil, up: true, down: true) }
        case .sleepHere:
            // Ends that stay awake go on sending, which takes time to simulate: only an initiator that is alone may sleep for
            // hours.
            let isAlone = world.initiators.count == 1
            initiator.asleepUntil = world.now + (isAlone ? self.duration(random) : self.nap(random))
        case .sleepThere: responder.asleepUntil = world.now + self.nap(random)
        case .sleepBoth:
            let until = world.now + self.duration(random)
            for end in world.ends { end.asleepUntil = until }
        case .clockLeaps: random.pick(world.ends).clockOffset += self.duration(random)
        case .dateChanges:
            // Two programs with the same key need the same date: the one that is behind would be refused.
            guard Set(world.initiators.map(\.key)).count == world.initiators.count else { return }
            let change = random.between(-Self.eightHours...Self.eightHours)
            initiator.changeDate(by: change)
        case .initiatorRestarts: if initiator.isRunning { try initiator.restart() }
        case .responderRestarts: try responder.restart()
        case .stranger: world.addStranger()
        case .strangers: for _ in 0..<random.between(10...80) { world.addStranger() }
        case .flood:
            if !world.lines.isEmpty { world.attacker?.flood(responder, random.logarithmic(50...400)) }
        case .natRebinds, .addressChanges, .addressFlaps, .datagramsBlocked, .upBlocked, .downBlocked, .pathShrinks,
            .pathGrows, .lossGrows:
            if let line = initiator.line { self.happen(to: line, world) }
        }
    }

    private func happen(to line: DatagramLine, _ world: World) {
        let random = world.random
        switch self {
        case .natRebinds: line.rebind()
        case .addressChanges: line.move()
        case .addressFlaps: line.flapsUntil = world.now + random.between(0...2_000_000_000)
        case .datagramsBlocked: line.isDark(until: world.now + self.nap(random), up: true, down: true)
        case .upBlocked: line.isDark(until: world.now + self.nap(random), up: true, down: false)
        case .downBlocked: line.isDark(until: world.now + self.nap(random), up: false, down: true)
        case .pathShrinks, .pathGrows:
            let mtu = self == .pathGrows ? 65_507 : random.between(1_200...1_500)
            if random.isOne(in: 2) {
                line.refusesAbove = mtu
            } else {
                line.up.shape.mtu = mtu
                line.down.shape.mtu = mtu
            }
        case .lossGrows:
            line.up.shape.lost = random.between(0...300)
            line.down.shape.lost = random.between(0...300)
        default: break
        }
    }

    private func duration(_ random: SeededRandom) -> Int64 {
        random.isOne(in: 3) ? Self.eightHours : self.nap(random)
    }

    private func nap(_ random: SeededRandom) -> Int64 { random.between(1...Self.nanosecondsAtMost) }
}

extension SeededRandom {
    func pickOrNone<Element>(_ elements: [Element]) -> Element? { elements.isEmpty ? nil : self.pick(elements) }
}

extension World {
    func addStranger() {
        guard let attacker = self.attacker, let responder = self.responder else { return }
        var script: [ByteBuffer] = []
        for _ in 0..<self.random.between(0...3) {
            let message = attacker.anything(for: responder)
            var bytes = ByteBuffer()
            // Sometimes the length announces far more than is sent.
            let length = self.random.isOne(in: 4) ? self.random.logarithmic(0...Int(UInt32.max)) : message.readableBytes
            bytes.writeInteger(UInt32(length))
            bytes.writeImmutableBuffer(message)
            script.append(bytes)
        }
        let stranger = StrangerEnd("stranger", saying: script, world: self)
        self.add(stranger)
        self.dial(stranger, SimulatedCarrier.Shape())
    }
}
