import Carriers
import InterceptProtocol
import NIOCore
import Testing

@testable import HostSupport
@testable import WorkspaceAgent

/// Which list of ports is in force.
@Suite struct SentListsTests {
    @Test func onlyTheLastListsAnswerCounts() {
        var lists = SentLists(3)
        #expect(lists.started(2, wanted: 3) == false)
        #expect(lists.inForce == nil)
        #expect(lists.started(3, wanted: 3) == true)
        #expect(lists.inForce == 3)
        lists.changed(to: 4)
        #expect(lists.generation == 4)
        #expect(lists.inForce == nil)
        #expect(lists.isOutdated(3))
        #expect(!lists.isOutdated(4))
        #expect(!lists.isOutdated(nil))
    }

    @Test func theAgentsOwnListsRaiseTheNumber() {
        var lists = SentLists(1)
        #expect(!lists.mayAskOwn)
        _ = lists.started(1, wanted: 1)
        #expect(lists.mayAskOwn)
        lists.askedOwn()
        #expect(lists.generation == 2)
        // The developer's list stays in force, but the next own one waits.
        #expect(lists.inForce == 1)
        #expect(!lists.mayAskOwn)
        #expect(lists.started(2, wanted: 1) == true)
        #expect(lists.mayAskOwn)
        // The developer's number is behind by now.
        lists.changed(to: 2)
        #expect(lists.generation == 3)
        #expect(!lists.mayAskOwn)
    }

    @Test func whatARefusalLeavesInForce() {
        var lists = SentLists(1)
        #expect(lists.refused(1, wanted: 1) == .first)
        #expect(lists.refused(nil, wanted: 1) == .first)
        _ = lists.started(1, wanted: 1)
        lists.askedOwn()
        #expect(lists.refused(2, wanted: 1) == .own)
        #expect(lists.generation == 3)
        #expect(lists.mayAskOwn)
        lists.changed(to: 5)
        #expect(lists.refused(5, wanted: 5) == .later)
        // The same list again, on another connection.
        #expect(lists.started(5, wanted: 5) == true)
        lists.wereLost()
        #expect(lists.inForce == nil)
        #expect(lists.refused(5, wanted: 5) == .first)
    }

    @Test func anotherConnectionKnowsNoLists() {
        var lists = SentLists(1)
        _ = lists.started(1, wanted: 1)
        lists.askedOwn()
        lists.beginAnew()
        #expect(lists.inForce == nil)
        // The next list is the developer's again.
        #expect(lists.refused(2, wanted: 1) == .first)
        #expect(lists.started(2, wanted: 1) == true)
        #expect(lists.mayAskOwn)
    }
}

/// Why there is no connection.
@Suite struct DialTroubleTests {
    private let refused = DialFailure.unreachable(.tcp(host: "127.0.0.1", port: 1), why: "connection refused")
    private let silence = DialFailure.silent(.udp(host: "127.0.0.1", port: 2))
    private let now = NIODeadline.now()

    @Test func aFailureIsLoggedOnceAMinute() {
        var trouble = DialTrouble()
        #expect(trouble.clause == nil)
        #expect(trouble.failure == nil)
        #expect(trouble.failed([self.refused], at: self.now) == true)
        #expect(trouble.failed([self.refused], at: self.now + .seconds(59)) == false)
        #expect(trouble.failed([self.refused, self.refused], at: self.now + .seconds(59)) == true)
        #expect(trouble.failed([self.refused, self.refused], at: self.now + .seconds(119)) == true)
    }

    @Test func silenceOverDatagramsHasManyCauses() {
        var trouble = DialTrouble()
        _ = trouble.failed([self.refused], at: self.now)
        #expect(trouble.failure == .notDialled([self.refused]))
        _ = trouble.failed([self.silence], at: self.now)
        #expect(trouble.failure == nil)
        #expect(trouble.clause == "127.0.0.1:2 gives no answer over UDP")
        // Whatever a command's last line is.
        let command = TunnelClient.Address.command(["dial"])
        let ending = DialFailure.relayEnded(command, why: "ended with code 1: x gives no answer over UDP")
        _ = trouble.failed([ending], at: self.now)
        #expect(trouble.failure == .notDialled([ending]))
    }

    @Test func whatTheSidecarSaidComesFirst() {
        var trouble = DialTrouble()
        _ = trouble.failed([self.refused], at: self.now)
        #expect(trouble.sidecarWasBusy() == true)
        #expect(trouble.sidecarWasBusy() == false)
        #expect(trouble.failure == .overloaded)
        #expect(trouble.clause == "127.0.0.1:1 can't be reached: connection refused")
        #expect(trouble.presharedKeysDiffered() == true)
        #expect(trouble.presharedKeysDiffered() == false)
        #expect(trouble.failure == .presharedKeysDiffer)
        #expect(trouble.clause == "the preshared keys differ")
    }
}

/// The sidecar's counts, over connections.
@Suite struct CountersTests {
    @Test func endedConnectionsAreAdded() {
        var counters = WorkspaceAgent.Counters()
        counters.received(.init(open: 2, total: 5, passed: 1, bytesIn: 10, bytesOut: 20))
        counters.connectionEnded()
        counters.received(.init(open: 1, total: 1, passed: 0, bytesIn: 1, bytesOut: .max))
        let sum = counters.sum
        #expect(sum.open == 1)
        #expect(sum.total == 6)
        #expect(sum.passed == 1)
        #expect(sum.bytesIn == 11)
        #expect(sum.bytesOut == .max)
        counters.stopped(total: 3, passed: 2)
        #expect(counters.sum.open == 0)
        #expect(counters.sum.total == 8)
        #expect(counters.sum.passed == 3)
    }
}
