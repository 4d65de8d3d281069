import NIOCore
import Noise
import Testing
import Tunnel

@testable import Carriers

/// Which byte stream is dialled, and when.
@Suite struct StreamDialMachineTests {
    private typealias Action = StreamDialMachine.Action

    private static let one = TunnelClient.Address.tcp(host: "127.0.0.1", port: 1)
    private static let two = TunnelClient.Address.command(["two"])
    private static let three = TunnelClient.Address.tcp(host: "127.0.0.1", port: 3)
    private static let first = CarrierID(1)
    private static let second = CarrierID(2)

    private static func failed(_ address: TunnelClient.Address) -> DialFailure { .unreachable(address, why: "broken") }

    /// A machine whose clock goes on by as much as the test says. It draws nothing but zeros: no jitter.
    private struct Stage {
        private var machine: StreamDialMachine
        private(set) var now = Instant(nanoseconds: 1_000_000_000_000)

        init(_ addresses: [TunnelClient.Address]) {
            self.machine = StreamDialMachine(addresses, random: RandomSource { _ in })
        }

        mutating func after(_ event: StreamDialMachine.Event) -> [Action] { self.after(.zero, event) }

        mutating func after(_ pause: TimeAmount, _ event: StreamDialMachine.Event) -> [Action] {
            self.now = self.now + pause
            return self.machine.handle(event, at: self.now)
        }

        func has(_ id: CarrierID) -> Bool { self.machine.has(id) }
        var answeredAddress: TunnelClient.Address? { self.machine.answeredAddress }
    }

    /// With a carrier to the first address that was answered.
    private func connected(_ addresses: [TunnelClient.Address]) -> Stage {
        var stage = Stage(addresses)
        _ = stage.after(.start)
        _ = stage.after(.opened(Self.first, addresses[0]))
        #expect(stage.after(.answered(Self.first)) == [])
        return stage
    }

    @Test func aRoundTakesEachAddressOnceAndReportsAll() {
        var stage = Stage([Self.one, Self.two])
        #expect(stage.after(.start) == [.dial(Self.one, within: .seconds(1))])
        #expect(stage.after(.failed(Self.failed(Self.one))) == [.dial(Self.two, within: .seconds(5))])
        let failures = [Self.failed(Self.one), Self.failed(Self.two)]
        #expect(stage.after(.failed(failures[1])) == [.wait(.zero), .report(failures, retryIn: .zero)])
        #expect(stage.after(.waited) == [.dial(Self.one, within: .seconds(1))])
        _ = stage.after(.failed(failures[0]))
        #expect(
            stage.after(.failed(failures[1]))
                == [.wait(.milliseconds(100)), .report(failures, retryIn: .milliseconds(100))]
        )
    }

    @Test func whatFailedComesLastForHalfAMinute() {
        var stage = Stage([Self.one, Self.two])
        _ = stage.after(.start)
        _ = stage.after(.failed(Self.failed(Self.one)))
        _ = stage.after(.opened(Self.first, Self.two))
        _ = stage.after(.answered(Self.first))
        #expect(stage.after(.seconds(29), .closed(Self.first, rest: nil)) == [.lost, .wait(.zero)])
        #expect(stage.after(.waited) == [.dial(Self.two, within: .seconds(1))])
    }

    @Test func aCarrierThatClosesUnansweredIsExplainedBeforeTheNextIsDialled() {
        var stage = Stage([Self.one, Self.two])
        _ = stage.after(.start)
        #expect(stage.after(.opened(Self.first, Self.one)) == [.limit(Self.first, .seconds(2))])
        #expect(stage.after(.closed(Self.first, rest: nil)) == [.lost, .explain(Self.first)])
        #expect(stage.after(.failed(.closed(Self.one))) == [.dial(Self.two, within: .seconds(5))])
        // The last one has no limit: nothing waits for its end.
        #expect(stage.after(.opened(Self.second, Self.two)) == [])
        _ = stage.after(.closed(Self.second, rest: nil))
        // One silence says little: the sidecar may have been busy.
        #expect(stage.after(.failed(.closed(Self.two))) == [.wait(.milliseconds(50))])
    }

    @Test func aCarrierWithoutAnAnswerIsGivenUpAtItsLimit() {
        var stage = Stage([Self.two, Self.one])
        _ = stage.after(.start)
        #expect(stage.after(.opened(Self.first, Self.two)) == [.limit(Self.first, .seconds(8))])
        #expect(stage.after(.seconds(8), .limitReached(Self.first)) == [.giveUp(Self.first)])
        var other = self.connected([Self.two, Self.one])
        #expect(other.after(.seconds(8), .limitReached(Self.first)) == [])
        // Also while another is dialled beside it.
        _ = other.after(.networkChanged)
        #expect(other.after(.limitReached(Self.first)) == [])
    }

    @Test func anAnsweredCarrierThatClosesIsFollowedAtOnce() {
        var stage = self.connected([Self.one])
        #expect(stage.answeredAddress == Self.one)
        #expect(stage.after(.seconds(1), .closed(Self.first, rest: nil)) == [.lost, .wait(.zero)])
        #expect(stage.after(.waited) == [.dial(Self.one, within: .seconds(5))])
        // One that was cut soon: the next one probably will be, too.
        _ = stage.after(.opened(Self.second, Self.one))
        _ = stage.after(.answered(Self.second))
        #expect(stage.after(.milliseconds(249), .closed(Self.second, rest: nil)) == [.lost, .wait(.milliseconds(50))])
    }

    @Test func afterAnErrorNothingIsDialledForAWhile() {
        var stage = self.connected([Self.one])
        #expect(stage.after(.closed(Self.first, rest: .seconds(4))) == [.lost, .wait(.seconds(4))])
        _ = stage.after(.waited)
        _ = stage.after(.opened(Self.second, Self.one))
        // Even if this one wasn't answered: its silence isn't what is wrong.
        #expect(stage.after(.closed(Self.second, rest: .seconds(4))) == [.lost, .wait(.seconds(4))])
    }

    @Test func aStreamThatIsNeededDoesNotWait() {
        var stage = Stage([Self.one])
        _ = stage.after(.start)
        _ = stage.after(.failed(Self.failed(Self.one)))
        #expect(stage.after(.streamIsNeeded) == [.stopWaiting, .dial(Self.one, within: .seconds(5))])
        #expect(stage.after(.streamIsNeeded) == [])
        #expect(stage.after(.waited) == [])
        let report = Action.report([Self.failed(Self.one)], retryIn: .zero)
        #expect(stage.after(.failed(Self.failed(Self.one))) == [.wait(.zero), report])
    }

    @Test func anotherNetworkIsDialledBesideTheFirstCarrier() {
        var stage = self.connected([Self.one, Self.two])
        #expect(stage.after(.networkChanged) == [.stopWaiting, .dial(Self.one, within: .seconds(1))])
        #expect(stage.after(.networkChanged) == [])
        #expect(stage.after(.opened(Self.second, Self.one)) == [.limit(Self.second, .seconds(2))])
        #expect(stage.after(.networkChanged) == [])
        #expect(stage.after(.answered(Self.second)) == [])
        #expect(stage.after(.closed(Self.first, rest: nil)) == [])
        #expect(stage.after(.networkChanged) == [.stopWaiting, .dial(Self.one, within: .seconds(1))])
    }

    /// The first carrier was answered, however the attempt beside it went.
    @Test func whatClosesBesideAnotherIsNoFailureOfIt() {
        var stage = self.connected([Self.one, Self.two])
        _ = stage.after(.networkChanged)
        _ = stage.after(.opened(Self.second, Self.one))
        #expect(stage.after(.closed(Self.second, rest: nil)) == [])
        #expect(stage.after(.seconds(1), .closed(Self.first, rest: nil)) == [.lost, .wait(.zero)])
    }

    @Test func otherAddressesAreDialledInPlaceOfTheFormer() {
        var stage = self.connected([Self.one])
        #expect(stage.after(.addresses([Self.one])) == [])
        #expect(
            stage.after(.addresses([Self.three]))
                == [.stopWaiting, .close(Self.first), .lost, .dial(Self.three, within: .seconds(5))]
        )
        #expect(stage.answeredAddress == nil)
        #expect(stage.after(.closed(Self.first, rest: nil)) == [])
    }

    @Test func aCarrierToAFormerAddressIsNotTaken() {
        var stage = Stage([Self.one])
        _ = stage.after(.start)
        #expect(stage.after(.addresses([Self.three])) == [.stopWaiting])
        #expect(stage.after(.opened(Self.first, Self.one)) == [.dial(Self.three, within: .seconds(5))])
        #expect(!stage.has(Self.first))
        // Nor is its failure one of the new round.
        #expect(stage.after(.addresses([Self.two])) == [.stopWaiting])
        #expect(stage.after(.failed(Self.failed(Self.three))) == [.dial(Self.two, within: .seconds(5))])
    }

    @Test func withoutAddressesNothingIsDialled() {
        var stage = Stage([])
        #expect(stage.after(.start) == [])
        #expect(stage.after(.networkChanged) == [])
        #expect(stage.after(.addresses([Self.one])) == [.stopWaiting, .dial(Self.one, within: .seconds(5))])
    }

    @Test func afterTheEndNothingIsDialled() {
        var stage = Stage([Self.one, Self.two])
        _ = stage.after(.start)
        #expect(stage.after(.stop) == [.stopWaiting])
        #expect(stage.after(.failed(Self.failed(Self.one))) == [])
        #expect(stage.after(.opened(Self.first, Self.one)) == [])
        #expect(!stage.has(Self.first))
        #expect(stage.after(.waited) == [])
        #expect(stage.after(.networkChanged) == [])
        var other = self.connected([Self.one])
        _ = other.after(.stop)
        #expect(other.after(.closed(Self.first, rest: nil)) == [])
    }
}
