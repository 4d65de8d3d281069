import InterceptModel
import InterceptProtocol
import NIOCore
import Testing

@testable import WorkspaceAgent

@Suite struct AskedPortsTests {
    static let web = ServicePort(8080)
    static let admin = ServicePort(9090)
    static let names = ServicePort(53, .udp)
    static let all = [web, names, admin]

    /// The ports, their servers as the kernel shows them and as they take connections, and what the sidecar is sent.
    struct World {
        var ports: AskedPorts
        var now = NIODeadline.uptimeNanoseconds(0)
        var start = NIODeadline.uptimeNanoseconds(0)
        /// Listening, as far as the kernel tells.
        var listening: Set<ServicePort> = []
        /// Taking connections, though the kernel shows none; and giving no answer to them.
        var hidden: Set<ServicePort> = []
        var silent: Set<ServicePort> = []
        /// What can be seen without connecting.
        var canLook = true
        var mayAsk = true
        var lists: [(at: Int64, ports: [ServicePort])] = []
        var connects: [(at: Int64, port: ServicePort)] = []

        init(_ asked: [ServicePort] = AskedPortsTests.all, leavesToOriginal: Bool = true) {
            self.ports = AskedPorts(asked, leavesToOriginal: leavesToOriginal, at: .uptimeNanoseconds(0))
        }

        var milliseconds: Int64 { (self.now - self.start).nanoseconds / 1_000_000 }

        mutating func run(_ time: TimeAmount) {
            let end = self.now + time
            var turns = 0
            while let due = self.ports.nextDeadline(mayAsk: self.mayAsk), due <= end {
                turns += 1
                // A deadline that isn't dealt with would come again and again.
                guard turns < 100_000 else { return #expect(Bool(false), "the time stands still") }
                self.now = max(self.now, due)
                for look in self.ports.looksDue(at: self.now) { self.follow(look) }
                guard self.mayAsk, let list = self.ports.listDue(at: self.now) else { continue }
                self.lists.append((self.milliseconds, list))
            }
            self.now = end
        }

        private mutating func follow(_ look: AskedPorts.Look) {
            let isSeen = look.atSockets && self.canLook
            if isSeen, self.listening.contains(look.port) { return self.ports.saw(.listens, at: look.port, self.now) }
            guard look.byConnecting else {
                return self.ports.saw(isSeen ? .refuses : .unknown, at: look.port, self.now)
            }
            self.connects.append((self.milliseconds, look.port))
            if self.silent.contains(look.port) { return self.ports.saw(.unknown, at: look.port, self.now) }
            let isTaken = self.listening.union(self.hidden).contains(look.port)
            self.ports.saw(isTaken ? .listens : .refuses, at: look.port, self.now)
        }

        mutating func refuse(_ port: ServicePort) { self.ports.refused(port, at: self.now) }
    }

    @Test func aPortThatIsServedIsNeverLookedAt() {
        var world = World()
        #expect(world.ports.asked == Self.all)
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
        world.ports.answered(Self.web)
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func whatRefusesForASecondIsLeftToTheOriginal() {
        var world = World()
        world.run(.seconds(5))
        world.refuse(Self.web)
        world.run(.milliseconds(999))
        #expect(world.lists.isEmpty)
        world.run(.seconds(60))
        #expect(world.lists.map(\.ports) == [[Self.names, Self.admin]])
        #expect(world.lists.first?.at == 6_000)
        #expect(world.ports.asked == [Self.names, Self.admin])
    }

    @Test func aServerThatIsStartedAgainAtOnceChangesNothing() {
        var world = World()
        world.run(.seconds(5))
        world.refuse(Self.web)
        world.listening = [Self.web]
        world.run(.seconds(60))
        #expect(world.lists.isEmpty && world.connects.isEmpty)
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func aConnectionThatIsTakenEndsTheDoubt() {
        var world = World()
        world.run(.seconds(5))
        world.refuse(Self.web)
        world.run(.milliseconds(900))
        world.ports.answered(Self.web)
        world.refuse(Self.web)
        world.run(.milliseconds(999))
        #expect(world.lists.isEmpty)
        world.run(.milliseconds(1))
        #expect(world.lists.count == 1)
    }

    @Test func aServerThatComesBackIsSeenWithoutAConnection() {
        var world = World()
        world.run(.seconds(5))
        world.refuse(Self.web)
        world.run(.seconds(90))
        let connects = world.connects.count
        world.listening = [Self.web]
        let before = world.milliseconds
        world.run(.seconds(10))
        #expect(world.lists.map(\.ports) == [[Self.names, Self.admin], Self.all])
        #expect((world.lists.last?.at ?? .max) - before <= 250)
        #expect(world.connects.count == connects)
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func whereNothingCanBeSeenConnectionsAreTriedEverMoreSeldom() {
        var world = World()
        world.canLook = false
        world.refuse(Self.web)
        world.run(.seconds(200))
        let times = world.connects.map(\.at)
        #expect(times.prefix(6) == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000])
        let pauses = zip(times.dropFirst(6), times.dropFirst(5)).map(-)
        #expect(!pauses.isEmpty && pauses.allSatisfy { $0 == 30_000 })
        world.listening = [Self.web]
        world.run(.seconds(30))
        #expect(world.lists.map(\.ports) == [[Self.names, Self.admin], Self.all])
    }

    @Test func whatTheKernelDoesNotShowIsFoundByAConnection() {
        var world = World()
        world.refuse(Self.web)
        world.run(.seconds(10))
        #expect(world.lists.count == 1)
        world.hidden = [Self.web]
        world.run(.seconds(30))
        #expect(world.lists.last?.ports == Self.all)
    }

    @Test func aServerThatGivesNoAnswerIsAskedForStill() {
        var world = World()
        world.silent = [Self.web]
        world.listening = [Self.web]
        world.ports.failed(Self.web, at: world.now)
        world.run(.seconds(10))
        #expect(world.lists.isEmpty && !world.connects.isEmpty)
        world.silent = []
        world.run(.seconds(30))
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func oneListASecondHoweverOftenServersComeAndGo() {
        var world = World()
        for number in 0..<400 {
            let isThere = number % 3 == 0
            world.listening = isThere ? [Self.web, Self.admin] : []
            if !isThere {
                world.refuse(Self.web)
                if number % 2 == 0 { world.refuse(Self.admin) }
            }
            world.run(.milliseconds(Int64(350 + 90 * (number % 17))))
        }
        #expect(world.lists.count > 20)
        for (one, next) in zip(world.lists, world.lists.dropFirst()) {
            #expect(next.at - one.at >= 1_000)
            #expect(next.ports != one.ports)
        }
    }

    @Test func twoPortsThatAreLostAtOnceAreLeftByOneList() {
        var world = World()
        world.run(.seconds(5))
        world.refuse(Self.web)
        world.refuse(Self.admin)
        world.run(.seconds(20))
        #expect(world.lists.map(\.ports) == [[Self.names]])
    }

    @Test func withRefuseAllPortsStayAskedFor() {
        var world = World(leavesToOriginal: false)
        world.refuse(Self.web)
        world.run(.seconds(20))
        #expect(world.lists.isEmpty && world.ports.asked == Self.all)
        world.listening = [Self.web]
        world.run(.seconds(1))
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func datagramServersAndOtherPortsAreLeftAlone() {
        var world = World()
        world.refuse(Self.names)
        world.refuse(.init(1))
        world.ports.failed(Self.names, at: world.now)
        #expect(world.ports.nextDeadline(mayAsk: true) == nil)
    }

    @Test func nothingIsAskedForWhileAnAnswerIsAwaited() {
        var world = World()
        world.mayAsk = false
        world.refuse(Self.web)
        world.run(.seconds(20))
        #expect(world.lists.isEmpty && world.ports.asked == Self.all)
        world.mayAsk = true
        world.run(.milliseconds(250))
        #expect(world.lists.count == 1)
    }

    @Test func aListThatIsRefusedIsAskedForAgainLater() {
        var world = World()
        world.refuse(Self.web)
        world.run(.seconds(2))
        #expect(world.lists.count == 1)
        world.ports.wasRefused(at: world.now)
        #expect(world.ports.asked == Self.all)
        world.run(.milliseconds(9_999))
        #expect(world.lists.count == 1)
        world.run(.milliseconds(1))
        #expect(world.lists.count == 2)
    }

    @Test func aNewSidecarIsAskedForAllFirst() {
        var world = World()
        world.refuse(Self.web)
        world.run(.seconds(10))
        #expect(world.ports.asked == [Self.names, Self.admin])
        world.ports.beginAnew(at: world.now)
        #expect(world.ports.asked == Self.all)
        world.run(.milliseconds(999))
        #expect(world.lists.count == 1)
        world.run(.seconds(1))
        #expect(world.lists.last?.ports == [Self.names, Self.admin])
    }
}
