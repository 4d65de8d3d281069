import NIOCore
import Noise
import Testing

@testable import Tunnel
@testable import TunnelSimulator

/// What happens to laptops, one thing at a time, in exact simulated time.
@Suite struct DatagramStories {
    /// A workspace with a way of datagrams, a sidecar, and streams that the sidecar opens as soon as they are connected.
    final class Story {
        let world: World
        let responder: ResponderEnd
        let initiator: InitiatorEnd
        let line: DatagramLine

        /// - Parameter isQuiet: one stream and nothing else; else datagrams and the control stream, too.
        init(
            streams: Int = 1,
            size: Int = 5_000,
            lane: DatagramLane.Shape = .init(),
            hasStreams: Bool = false,
            isQuiet: Bool = true
        ) {
            self.world = World(seed: 7)
            self.world.limits = .init(sizes: size...size, resets: nil, stops: nil, slowOnes: nil)
            self.world.isSettling = isQuiet && streams > 0
            self.world.openPause = 1_000_000
            var configuration = TunnelConfiguration()
            configuration.maxStreamsFromPeer = 1
            self.responder = ResponderEnd(
                "responder",
                staticKey: SimulatedKeys.responder,
                configuration: configuration,
                world: self.world
            )
            self.responder.streamsToOpen = streams
            self.world.add(self.responder)
            (self.initiator, self.line) = Self.addInitiator(0, lane, self.world, self.responder)
            self.initiator.hasStreams = hasStreams
        }

        static func addInitiator(
            _ number: Int,
            _ lane: DatagramLane.Shape,
            _ world: World,
            _ responder: ResponderEnd
        ) -> (InitiatorEnd, DatagramLine) {
            let key = SimulatedKeys.initiators[number]
            let configuration = Initiator.Configuration(
                staticKey: key,
                responder: SimulatedKeys.responder.publicKey
            )
            let initiator = InitiatorEnd("initiator \(number)", configuration, world: world)
            initiator.hasStreams = false
            let line = DatagramLine(initiator, lane, random: world.random.fork())
            initiator.line = line
            world.add(initiator)
            world.lines.append(line)
            responder.accept(key.publicKey)
            return (initiator, line)
        }

        /// The round trip is known, and then a stream is opened.
        func afterAWhile() throws -> Story {
            try self.world.run(for: .seconds(2))
            self.responder.traffic[self.initiator.key]?.toOpen = 1
            return self
        }

        /// Seconds until something is so; nil: it never was.
        func seconds(atMost: Int64, until isSo: () -> Bool) throws -> Double? {
            let before = self.world.now
            guard try self.world.run(atMost: .seconds(atMost), until: isSo) else { return nil }
            return Double(self.world.now - before) / 1e9
        }

        /// The application's last word is on its way.
        var allIsWritten: Bool {
            self.world.ledger.directions.contains { key, direction in
                key.stream != .control && key.sender == .responder && direction.finished
            }
        }

        func arrived(_ share: Double, of size: Int) -> Bool {
            self.world.ledger.directions.contains { key, direction in
                key.stream != .control && key.sender == .responder && Double(direction.read) >= share * Double(size)
            }
        }

        var usesDatagrams: Bool { self.initiator.tunnel.usesDatagrams }

        func inspect(_ end: Role) -> ConnectionInspection? {
            var inspection: ConnectionInspection?
            if end == .initiator {
                _ = self.initiator.tunnel.withConnection { inspection = $0.inspection }
            } else {
                _ = self.responder.tunnel.withConnection(of: self.initiator.key) { inspection = $0.inspection }
            }
            return inspection
        }

        /// All that was begun has ended, on the connection that was there from the start.
        func expectEnd(atMost seconds: Int64, _ location: SourceLocation = #_sourceLocation) throws {
            self.world.isSettling = true
            let took = try self.seconds(atMost: seconds) { self.world.isComplete }
            #expect(took != nil, "\(self.world.unfinished)", sourceLocation: location)
            #expect(self.initiator.established == 1, sourceLocation: location)
        }
    }

    private static func lossy(_ thousandth: Int) -> DatagramLane.Shape {
        var lane = DatagramLane.Shape()
        lane.lost = thousandth
        return lane
    }

    // MARK: Loss

    /// Nothing comes after it that could show that it was lost: RFC 9002 §6.2.
    @Test func tailLoss() throws {
        let story = try Story(streams: 0).afterAWhile()
        #expect(try story.seconds(atMost: 5) { story.allIsWritten } != nil)
        story.line.down.drain()
        let took = try story.seconds(atMost: 60) { story.world.isComplete }
        // A probe timeout of a round trip of 20 ms, and the answer.
        #expect(try #require(took) < 0.3, "took \(took ?? 0)")
    }

    @Test func lostFin() throws {
        let story = try Story(streams: 0, size: 0).afterAWhile()
        #expect(try story.seconds(atMost: 5) { story.allIsWritten } != nil)
        story.line.down.drain()
        let took = try story.seconds(atMost: 60) { story.world.isComplete }
        #expect(try #require(took) < 0.3)
    }

    /// Every message of three is lost, each way, for as long as a connection needs to take new keys twice.
    @Test func rekeyDuringLoss() throws {
        let story = Story(streams: 16, size: 400_000, lane: Self.lossy(300), isQuiet: false)
        story.world.openPause = 30_000_000_000
        try story.world.run(for: .seconds(300))
        var sessions: UInt64 = 0
        _ = story.initiator.tunnel.withConnection { sessions = $0.statistics.sessions }
        #expect(sessions >= 3)
        try story.expectEnd(atMost: 600)
    }

    @Test(arguments: [0, 10, 100, 300]) func allOfItArrives(_ thousandth: Int) throws {
        var lane = Self.lossy(thousandth)
        lane.jitter = 5_000_000
        lane.repeated = 20
        let story = Story(streams: 4, size: 400_000, lane: lane, isQuiet: false)
        try story.world.run(for: .seconds(5))
        try story.expectEnd(atMost: 600)
    }

    // MARK: Sleep

    @Test(arguments: [false, true]) func bothSleep(_ hasStreams: Bool) throws {
        let story = Story(streams: 2, size: 4_000_000, hasStreams: hasStreams, isQuiet: false)
        #expect(try story.seconds(atMost: 60) { story.arrived(0.3, of: 4_000_000) } != nil)
        let until = story.world.now + 8 * 3_600 * 1_000_000_000
        story.initiator.asleepUntil = until
        story.responder.asleepUntil = until
        // A NAT has forgotten by then.
        story.line.rebind()
        try story.world.run(until: until)
        try story.expectEnd(atMost: 60)
    }

    // MARK: Addresses

    /// What comes down meets a closed door until something goes up.
    @Test func natForgets() throws {
        let story = Story(size: 4_000_000)
        for share in [0.2, 0.4, 0.6, 0.8] {
            #expect(try story.seconds(atMost: 60) { story.arrived(share, of: 4_000_000) } != nil)
            let read = share + 0.05
            story.line.rebind()
            let took = try story.seconds(atMost: 60) { story.arrived(read, of: 4_000_000) }
            #expect(try #require(took) < 2)
        }
        try story.expectEnd(atMost: 60)
    }

    @Test func addressChanges() throws {
        let story = Story(size: 4_000_000)
        #expect(try story.seconds(atMost: 60) { story.arrived(0.5, of: 4_000_000) } != nil)
        story.line.move()
        let took = try story.seconds(atMost: 60) { story.arrived(0.55, of: 4_000_000) }
        #expect(try #require(took) < 2)
        try story.expectEnd(atMost: 60)
    }

    /// A peer whose every message comes from elsewhere is followed ten times a second, and costs nothing beyond.
    @Test func addressesFlap() throws {
        let story = Story(streams: 2, size: 2_000_000, isQuiet: false)
        #expect(try story.seconds(atMost: 60) { story.arrived(0.2, of: 2_000_000) } != nil)
        story.line.flapsUntil = story.world.now + 5_000_000_000
        try story.world.run(for: .seconds(5))
        try story.expectEnd(atMost: 60)
    }

    /// Its initiation is answered, but its data comes from elsewhere each time, and no challenge is ever answered: such a
    /// connection has no path, and is kept for no longer than one that has lost its own.
    @Test func neverHasAPath() throws {
        let story = Story(streams: 0)
        story.line.flapsUntil = .max
        story.line.down.losesData = true
        let key = story.initiator.key
        #expect(try story.seconds(atMost: 10) { story.responder.events.contains(.established(key)) } != nil)
        let took = try story.seconds(atMost: 1_200) {
            story.responder.events.contains { event in
                if case .connection(key, .ended(let end)) = event { end.origin == .lingerOver } else { false }
            }
        }
        #expect(abs(try #require(took) - 600) < 30)
    }

    // MARK: Carriers

    /// Datagrams go dark and come back: the byte stream takes over within 3 s, and gives back.
    @Test(arguments: [(true, true), (true, false), (false, true)]) func dark(_ up: Bool, _ down: Bool) throws {
        let story = Story(streams: 16, size: 400_000, hasStreams: true, isQuiet: false)
        story.world.openPause = 5_000_000_000
        try story.world.run(for: .seconds(3))
        #expect(story.usesDatagrams)
        story.line.isDark(until: story.world.now + 40_000_000_000, up: up, down: down)
        let left = try story.seconds(atMost: 60) { !story.usesDatagrams }
        #expect(try #require(left) < 3)
        try story.world.run(for: .seconds(30))
        #expect(!story.usesDatagrams)
        let returned = try story.seconds(atMost: 60) { story.usesDatagrams }
        // The initiation's interval is at most 5.3 s by then.
        #expect(try #require(returned) < 16)
        try story.expectEnd(atMost: 120)
    }

    /// Handshakes are answered and nothing else gets through: after a second try datagrams are left alone for longer and
    /// longer, and the byte stream carries all meanwhile. When they are good again, they are found within the longest pause.
    @Test(arguments: [(true, true), (true, false), (false, true)])
    func onlyHandshakesGetThrough(_ up: Bool, _ down: Bool) throws {
        let story = Story(streams: 16, size: 400_000, hasStreams: true, isQuiet: false)
        story.world.openPause = 20_000_000_000
        (story.line.up.losesData, story.line.down.losesData) = (up, down)
        func changes() -> Int { story.initiator.events.count { if case .moved = $0 { true } else { false } } }
        try story.world.run(for: .seconds(30))
        // To the stream and back, four times: at once, after 5 and after 15 s.
        #expect(changes() <= 8)
        let before = changes()
        var onDatagrams = 0
        for _ in 0..<300 {
            try story.world.run(for: .milliseconds(500))
            if story.usesDatagrams { onDatagrams += 1 }
        }
        #expect(changes() - before <= 4)
        #expect(onDatagrams <= 12)
        (story.line.up.losesData, story.line.down.losesData) = (false, false)
        #expect(try story.seconds(atMost: 310) { story.usesDatagrams } != nil)
        try story.world.run(for: .seconds(60))
        #expect(story.usesDatagrams)
        try story.expectEnd(atMost: 300)
    }

    /// The byte stream falls silent while datagrams, blocked until then, are waited for: they are asked before their time.
    @Test func theStreamGoesDarkInTurn() throws {
        let story = Story(streams: 16, size: 400_000, hasStreams: true, isQuiet: false)
        story.line.isDark(until: 8_000_000_000, up: true, down: true)
        // Initiations went out at 0, 1, 3 and 7 s; the next one would at 12 s.
        try story.world.run(for: .seconds(8))
        #expect(!story.usesDatagrams)
        story.world.openPause = 5_000_000_000
        for carrier in story.world.liveCarriers { carrier.swallow() }
        let took = try story.seconds(atMost: 60) { story.usesDatagrams }
        #expect(try #require(took) < 3)
        try story.expectEnd(atMost: 300)
    }

    /// Datagrams go dark just when new keys are due.
    @Test func carrierChangesDuringRekey() throws {
        let story = Story(streams: 16, size: 100_000, hasStreams: true, isQuiet: false)
        story.world.openPause = 30_000_000_000
        try story.world.run(for: .seconds(119))
        story.line.isDark(until: story.world.now + 20_000_000_000, up: true, down: true)
        try story.world.run(for: .seconds(10))
        #expect(!story.usesDatagrams)
        try story.world.run(for: .seconds(60))
        #expect(story.usesDatagrams)
        var sessions: UInt64 = 0
        _ = story.initiator.tunnel.withConnection { sessions = $0.statistics.sessions }
        #expect(sessions >= 2)
        try story.expectEnd(atMost: 600)
    }

    /// The peer's program is gone: datagrams are silent, but its byte stream ends, and that is told within a second.
    @Test func standbyEnds() throws {
        let story = Story(hasStreams: true)
        try story.world.run(for: .seconds(3))
        #expect(story.usesDatagrams)
        story.initiator.isRunning = false
        story.initiator.asleepUntil = story.world.now + 60_000_000_000
        for carrier in story.world.liveCarriers { carrier.acceptor.close(after: story.world.now) }
        let took = try story.seconds(atMost: 60) {
            story.responder.events.contains(.connection(story.initiator.key, .presence(.gone)))
        }
        #expect(try #require(took) <= 1.1)
    }

    /// Nobody has an event to tell of the other's close then; both are gone after a trip, and wait for no deadline.
    @Test(arguments: [false, true]) func bothClose(_ hasStreams: Bool) throws {
        let story = Story(streams: 0, hasStreams: hasStreams)
        try story.world.run(for: .seconds(3))
        let isConnected = story.responder.tunnel.hasConnections
        #expect(isConnected)
        story.initiator.finish()
        story.responder.tunnel.close(story.initiator.key, .noError, at: story.responder.now)
        let took = try story.seconds(atMost: 10) { !story.responder.tunnel.hasConnections }
        #expect(try #require(took) < 0.1)
    }

    // MARK: Sizes

    /// RFC 8899: found to within a block of the cipher, both where greater ones vanish and where the system refuses them.
    @Test(arguments: [(1_200, false), (1_412, false), (1_472, true), (1_472, false), (8_972, true), (65_507, false)])
    func sizesAreFound(_ mtu: Int, _ isTold: Bool) throws {
        var lane = DatagramLane.Shape()
        if !isTold { lane.mtu = mtu }
        let story = Story(streams: 4, size: 2_000_000, lane: lane, isQuiet: false)
        if isTold { story.line.refusesAbove = mtu }
        try story.world.run(for: .seconds(30))
        let greatest = min(mtu, 16_416, 65_504)
        for role in [Role.initiator, .responder] {
            let found = try #require(story.inspect(role)?.recovery?.mtu)
            #expect(found <= greatest && found > greatest - 64, "found \(found)")
        }
        try story.expectEnd(atMost: 60)
    }

    /// A path that becomes smaller without a word.
    @Test func blackHole() throws {
        var lane = DatagramLane.Shape()
        lane.bytesPerSecond = 2_000_000
        let story = Story(size: 8_000_000, lane: lane)
        #expect(try story.seconds(atMost: 60) { story.arrived(0.5, of: 8_000_000) } != nil)
        #expect(try #require(story.inspect(.responder)?.recovery?.mtu) > 1_400)
        story.line.up.shape.mtu = 1_300
        story.line.down.shape.mtu = 1_300
        let took = try story.seconds(atMost: 60) { story.arrived(0.55, of: 8_000_000) }
        #expect(try #require(took) < 4)
        let mtu = try #require(story.inspect(.responder)?.recovery?.mtu)
        #expect(mtu <= 1_300)
        try story.expectEnd(atMost: 60)
    }

    // MARK: Floods

    /// Who comes while strangers knock gets in by its cookie, and the one who is there notices nothing.
    @Test func cookiesUnderFlood() throws {
        let story = Story(streams: 4, size: 400_000, isQuiet: false)
        try story.world.run(for: .seconds(2))
        let attacker = Attacker(story.world, rarity: 1_000_000_000)
        let start = story.world.now
        // 4,000 a second: more than may be opened.
        for part in 0..<300 {
            story.world.at(start + Int64(part) * 10_000_000) { _ in attacker.flood(story.responder, 40) }
        }
        try story.world.run(for: .milliseconds(500))
        let (other, _) = Story.addInitiator(1, .init(), story.world, story.responder)
        let took = try story.seconds(atMost: 60) { other.established == 1 }
        #expect(try #require(took) < 2.5)
        #expect(other.events.contains(.sidecarIsBusy))
        #expect(!story.initiator.events.contains { if case .datagramsAreLost = $0 { true } else { false } })
        try story.world.run(for: .seconds(3))
        try story.expectEnd(atMost: 60)
    }
}
