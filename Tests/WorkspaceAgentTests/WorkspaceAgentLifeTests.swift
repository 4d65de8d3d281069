import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import NIOPosix
import Noise
import Testing
import Tunnel

@testable import WorkspaceAgent

/// One agent from its first dial to its outcome, with a sidecar that says what each test has it say.
@Suite struct WorkspaceAgentLifeTests {
    private typealias Sidecar = ScriptedSidecar

    /// What people read of the outcome, and whether it says that another workspace has the service.
    private func failure(of outcome: WorkspaceAgent.Outcome?) -> (text: String, isBusy: Bool) {
        guard case .failed(let failure)? = outcome else { return ("\(outcome as Any)", false) }
        return ("\(failure)", failure.isBusy)
    }

    // MARK: Asking

    @Test func theFirstListInForceMakesItReady() async throws {
        let sidecar = try await Sidecar.start { $0.takesOver = true }
        try await sidecar.wait { !$0.heard.isEmpty }
        var start = ControlMessage.Start(generation: 1, workspace: "ada@thinkpad", ports: [ServicePort(80)])
        start.takeover = true
        start.drainSeconds = 0
        start.absent = []
        #expect(try await Sidecar.on { sidecar.heard } == [.start(start)])
        #expect(try await Sidecar.on { sidecar.agent?.snapshot.acknowledged } == nil)
        try await Sidecar.on {
            // The answer to another list says nothing about this one.
            sidecar.say(.started(generation: 7))
            sidecar.say(.started(generation: 1))
        }
        guard case .ready? = try await sidecar.outcome() else { return #expect(Bool(false)) }
        #expect(try await Sidecar.on { sidecar.agent?.snapshot.acknowledged } == 1)
        #expect(try await Sidecar.on { sidecar.events.filter { $0 != .changed } } == [.started(generation: 1)])
        try await sidecar.end()
    }

    @Test func anotherListIsAskedForAndMayBeRefused() async throws {
        let sidecar = try await Sidecar.start { $0.takesOver = true }
        try await sidecar.begin()
        try await Sidecar.on {
            sidecar.agent?.update { $0.generation = 5 }
        }
        #expect(try await Sidecar.on { sidecar.agent?.snapshot.acknowledged } == nil)
        try await sidecar.wait { $0.heard.count == 2 }
        let failure = ControlMessage.Failure(generation: 5, code: .port, reason: "no such port")
        guard case .start(let start) = try await Sidecar.on({ sidecar.heard[1] }) else { return #expect(Bool(false)) }
        #expect(start.generation == 5)
        // Only the first list takes a service over.
        #expect(!start.takeover)
        try await Sidecar.on { sidecar.say(.failed(failure)) }
        try await sidecar.wait { $0.events.contains(.refused(generation: 5, failure)) }
        #expect(try await Sidecar.on { sidecar.outcomes.count == 1 })
        try await sidecar.end()
    }

    @Test(arguments: [
        (false, "Ask them to stop it, or take it over with --takeover."),
        (true, "Ask them to stop it: this sidecar was started without --allow-takeover."),
    ])
    func aServiceThatAnotherHasIsBusy(takesOver: Bool, way: String) async throws {
        let sidecar = try await Sidecar.start { $0.takesOver = takesOver }
        try await sidecar.wait { !$0.heard.isEmpty }
        try await Sidecar.on {
            sidecar.say(
                .failed(.init(generation: 1, code: .busy, reason: "", holder: "bo@desk", since: "2026-01-01T00:00:00Z"))
            )
        }
        let text = "The service is intercepted by bo@desk since 2026-01-01T00:00:00Z. \(way)"
        #expect(try await self.failure(of: sidecar.outcome()) == (text, true))
        try await sidecar.end()
    }

    @Test func aFirstListThatIsRefusedIsTheEnd() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.wait { !$0.heard.isEmpty }
        try await Sidecar.on { sidecar.say(.failed(.init(generation: 1, code: .port, reason: "port 80 isn't one"))) }
        #expect(try await self.failure(of: sidecar.outcome()) == ("The sidecar refused: port 80 isn't one.", false))
        try await sidecar.end()
    }

    @Test func aMirrorAsksForCopiesAlone() async throws {
        let sidecar = try await Sidecar.start {
            $0.kind = .mirror
            $0.takesOver = true
            $0.probes = .workspace
            $0.proxyProtocol = .v1
        }
        try await sidecar.wait { !$0.heard.isEmpty }
        var mirror = ControlMessage.Mirror(generation: 1, workspace: "ada@thinkpad", ports: [ServicePort(80)])
        mirror.probes = .workspace
        mirror.proxyProtocol = .v1
        #expect(try await Sidecar.on { sidecar.heard } == [.mirror(mirror)])
        try await Sidecar.on { sidecar.say(.started(generation: 1)) }
        guard case .ready? = try await sidecar.outcome() else { return #expect(Bool(false)) }
        try await Sidecar.on { sidecar.agent?.shutDown() }
        try await sidecar.wait { $0.heard.count == 2 && $0.heard.last == .stop }
        try await sidecar.end()
    }

    @Test func aSidecarThatCantCopyEndsAMirror() async throws {
        let sidecar = try await Sidecar.start { $0.kind = .mirror }
        try await sidecar.wait { !$0.heard.isEmpty }
        // As version 0.1.0 says it.
        let reason = "'mirror' isn't a message that this sidecar knows"
        try await Sidecar.on { sidecar.say(.failed(.init(generation: 1, code: .unsupported, reason: reason))) }
        let text =
            "The sidecar copies nothing: \(reason). It is of an earlier version, which can't copy: update it there. "
        #expect(try await self.failure(of: sidecar.outcome()) == (text + "Nothing was intercepted.", false))
        try await sidecar.end()
    }

    @Test func aSidecarThatCopiesForOthersIsNotCalledOld() async throws {
        let sidecar = try await Sidecar.start { $0.kind = .mirror }
        try await sidecar.wait { !$0.heard.isEmpty }
        let reason = "16 workspaces mirror this service already, and no more can"
        try await Sidecar.on { sidecar.say(.failed(.init(generation: 1, code: .unsupported, reason: reason))) }
        #expect(try await self.failure(of: sidecar.outcome()) == ("The sidecar refused: \(reason).", false))
        try await sidecar.end()
    }

    @Test func aSidecarThatLostTheListIsAskedAgain() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.begin()
        try await Sidecar.on { sidecar.say(.withdrawn(holder: nil)) }
        try await sidecar.wait { $0.agent?.snapshot.acknowledged == nil }
        try await sidecar.wait { $0.heard.count == 2 }
        try await Sidecar.on { sidecar.say(.started(generation: 1)) }
        try await sidecar.wait { $0.agent?.snapshot.acknowledged == 1 }
        #expect(try await Sidecar.on { sidecar.outcomes.count == 1 })
        try await sidecar.end()
    }

    /// Room on the control stream is the sidecar's to give, so it brings no `start` forward.
    @Test func aStartThatWaitsForItsTimeIsNotSentForRoom() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.begin()
        let waits = try await Sidecar.on {
            guard let agent = sidecar.agent, let client = agent.client else { return [Bool]() }
            agent.sendStart()
            agent.startIsWanted()
            return (0..<2).map { _ in
                agent.tunnelClient(client, did: .connection(.writable(.control)))
                return agent.owed.isOwed && agent.owed.timer != nil
            }
        }
        #expect(waits == [true, true])
        try await sidecar.wait { $0.heard.count >= 3 }
        // What the developer asks for is sent at once.
        let isSent = try await Sidecar.on {
            sidecar.agent?.startIsWanted()
            sidecar.agent?.sendStart()
            return sidecar.agent.map { !$0.owed.isOwed && $0.owed.timer == nil }
        }
        #expect(isSent == true)
        try await sidecar.wait { $0.heard.count >= 4 }
        try await sidecar.end()
    }

    @Test func probesAreAnsweredOneAtATime() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.begin()
        let results = Results()
        try await Sidecar.on {
            sidecar.agent?.probe { results.all.append($0) }
            sidecar.agent?.probe { results.all.append($0) }
        }
        #expect(try await Sidecar.on { results.all } == [.failed("another probe was begun")])
        let ports = [ServicePort(80)]
        try await sidecar.wait { $0.heard.contains(.probe(.init(id: 2, ports: ports))) }
        try await Sidecar.on {
            sidecar.say(.probed(.init(id: 1, answers: [:])))
            sidecar.say(.probed(.init(id: 2, answers: [ports[0]: .connected])))
        }
        try await sidecar.wait { _ in results.all.count == 2 }
        #expect(try await Sidecar.on { results.all.last } == .answered([ports[0]: .connected]))
        try await Sidecar.on {
            sidecar.agent?.probe { results.all.append($0) }
            sidecar.say(.failed(.init(generation: nil, code: .unsupported, reason: "")))
        }
        try await sidecar.wait { _ in results.all.count == 3 }
        #expect(try await Sidecar.on { results.all.last == .unsupported })
        try await sidecar.end()
    }

    /// Used on the event loop alone.
    private final class Results: @unchecked Sendable {
        var all: [WorkspaceAgent.ProbeResult] = []
    }

    // MARK: No connection

    @Test func anAddressThatRefusesIsNamed() async throws {
        let sidecar = try await Sidecar.start(isThere: false)
        let reason = "127.0.0.1:1 can't be reached: connection refused"
        try await sidecar.wait { $0.agent?.snapshot.problem == reason }
        try await Sidecar.on { sidecar.agent?.noAnswer(within: .seconds(10)) }
        let outcome = try await sidecar.outcome()
        #expect(self.failure(of: outcome) == ("\(reason). Check the address, and that the sidecar runs.", false))
        try await sidecar.end()
    }

    @Test func silenceIsGivenUpInTime() async throws {
        let socket = try await DatagramBootstrap(group: Sidecar.loop).bind(host: "127.0.0.1", port: 0).get()
        let port = try #require(socket.localAddress?.port)
        let sidecar = try await Sidecar.start(isThere: false) {
            $0.sidecar = [.udp(host: "127.0.0.1", port: port)]
            $0.givesUpAfter = .seconds(1)
        }
        let text = try await self.failure(of: sidecar.outcome()).text
        #expect(text.hasPrefix("No answer from the sidecar at 127.0.0.1:\(port) for 1 s."))
        try await sidecar.end()
        try await socket.close()
    }

    /// Silence over UDP has many causes, which are all named.
    @Test func silenceOverUDPIsNoAnswer() async throws {
        let socket = try await DatagramBootstrap(group: Sidecar.loop).bind(host: "127.0.0.1", port: 0).get()
        let port = try #require(socket.localAddress?.port)
        let sidecar = try await Sidecar.start(isThere: false) {
            $0.sidecar = [.udp(host: "127.0.0.1", port: port), .udp(host: "localhost", port: port)]
        }
        try await sidecar.wait { $0.agent?.snapshot.problem == "localhost:\(port) gives no answer over UDP" }
        try await Sidecar.on { sidecar.agent?.noAnswer(within: .seconds(6)) }
        let outcome = try await sidecar.outcome()
        let (text, isBusy) = self.failure(of: outcome)
        #expect(!isBusy)
        let begin = "No answer from the sidecar at 127.0.0.1:\(port) and localhost:\(port) for 6 s. Either the address"
        #expect(text.hasPrefix(begin))
        #expect(text.hasSuffix("clock is wrong, or the network drops UDP, or it speaks another version."))
        try await sidecar.end()
        try await socket.close()
    }

    @Test func presharedKeysThatDifferAreNamed() async throws {
        let key = try #require(
            PresharedKey(filling: { key in
                key.storeBytes(of: 7, as: UInt8.self)
                return true
            })
        )
        let sidecar = try await Sidecar.start(presharedKey: key)
        try await sidecar.wait { $0.agent?.snapshot.problem == "the preshared keys differ" }
        try await Sidecar.on { sidecar.agent?.noAnswer(within: .seconds(10)) }
        let text = "The preshared keys differ: give both sides the same --preshared-key-file, or neither of them one."
        #expect(try await self.failure(of: sidecar.outcome()) == (text, false))
        try await sidecar.end()
    }

    @Test func aKeyThatIsRevokedIsTheEnd() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.begin()
        try await Sidecar.on { sidecar.revoke() }
        #expect(try await self.failure(of: sidecar.outcome(2)) == ("The sidecar no longer accepts this key.", false))
        try await sidecar.end()
    }

    // MARK: Taken over

    @Test func aTakeoverIsTheEndOnceNothingIsOpen() async throws {
        let listener = try await ServerBootstrap(group: Sidecar.loop).bind(host: "127.0.0.1", port: 0).get()
        let port = UInt16(try #require(listener.localAddress?.port))
        let sidecar = try await Sidecar.start(targetPort: port)
        try await sidecar.begin()
        let stream = try #require(await Sidecar.on { sidecar.open() })
        try await sidecar.wait { $0.withConnection { $0.hasBytes(stream) } ?? false }
        try await Sidecar.on { sidecar.say(.withdrawn(holder: "bo@desk")) }
        try await sidecar.wait { $0.events.contains(.takenOver(by: "bo@desk")) }
        #expect(try await Sidecar.on { sidecar.outcomes.count } == 1)
        #expect(try await Sidecar.on { sidecar.agent?.snapshot.acknowledged } == nil)
        // Not asked for again: it is another's now.
        #expect(try await Sidecar.on { sidecar.heard.count } == 1)
        try await Sidecar.on {
            _ = sidecar.withConnection {
                $0.reset(stream, .tcpReset)
                $0.stopSending(stream, .tcpReset)
            }
        }
        let text = "The intercept was taken over by bo@desk."
        #expect(try await self.failure(of: sidecar.outcome(2)) == (text, true))
        try await sidecar.end()
        try await listener.close()
    }

    /// Told to end, it still waits for the connections that were open, and says who took over.
    @Test(arguments: [false, true])
    func aTakeoverIsAlsoTheEndOfOneThatEnds(endsFirst: Bool) async throws {
        let listener = try await ServerBootstrap(group: Sidecar.loop).bind(host: "127.0.0.1", port: 0).get()
        let port = UInt16(try #require(listener.localAddress?.port))
        let sidecar = try await Sidecar.start(targetPort: port) { $0.drainSeconds = 60 }
        try await sidecar.begin()
        let stream = try #require(await Sidecar.on { sidecar.open() })
        try await sidecar.wait { $0.withConnection { $0.hasBytes(stream) } ?? false }
        if endsFirst { try await Sidecar.on { sidecar.agent?.shutDown() } }
        try await Sidecar.on { sidecar.say(.withdrawn(holder: "bo@desk")) }
        try await sidecar.wait { $0.events.contains(.takenOver(by: "bo@desk")) }
        try await Sidecar.on { sidecar.agent?.shutDown() }
        try await sidecar.wait { $0.heard.last == .stop }
        try await Sidecar.on {
            _ = sidecar.withConnection {
                $0.reset(stream, .tcpReset)
                $0.stopSending(stream, .tcpReset)
            }
        }
        let text = "The intercept was taken over by bo@desk."
        #expect(try await self.failure(of: sidecar.outcome(2)) == (text, true))
        try await sidecar.end()
        try await listener.close()
    }

    // MARK: Ending

    @Test func beforeItIsReadyItEndsAtOnce() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.wait { !$0.heard.isEmpty }
        try await Sidecar.on { sidecar.agent?.shutDown() }
        #expect(try await sidecar.outcome() == .ended)
        // There is nothing to give back.
        #expect(try await Sidecar.on { sidecar.heard.count } == 1)
        try await sidecar.end()
    }

    @Test func theSidecarsConfirmationHasTheCounts() async throws {
        let listener = try await ServerBootstrap(group: Sidecar.loop).bind(host: "127.0.0.1", port: 0).get()
        let port = UInt16(try #require(listener.localAddress?.port))
        let sidecar = try await Sidecar.start(targetPort: port) { $0.drainSeconds = 60 }
        try await sidecar.begin()
        let streams = try await Sidecar.on { [sidecar.open(), sidecar.open()] }
        let one = try #require(streams[0])
        let two = try #require(streams[1])
        try await sidecar.wait { $0.withConnection { $0.hasBytes(one) && $0.hasBytes(two) } ?? false }
        try await Sidecar.on { sidecar.agent?.shutDown() }
        try await sidecar.wait { $0.heard.last == .stop }
        try await Sidecar.on {
            sidecar.say(.withdrawn(holder: nil))
            // Both directions: the stream counts once.
            _ = sidecar.withConnection {
                $0.reset(one, .shuttingDown)
                $0.stopSending(one, .shuttingDown)
            }
            sidecar.say(.stopped(total: 5, passed: 1))
        }
        #expect(try await sidecar.outcome(2) == .stopped(.init(total: 5, passed: 1, open: 2, reset: 1)))
        #expect(try await Sidecar.on { sidecar.events.contains(.withdrawn) })
        try await sidecar.end()
        try await listener.close()
    }

    @Test func withoutAConfirmationItEndsThreeSecondsAfterTheDrain() async throws {
        let sidecar = try await Sidecar.start { $0.drainSeconds = 0 }
        try await sidecar.begin()
        let begun = NIODeadline.now()
        try await Sidecar.on { sidecar.agent?.shutDown() }
        #expect(try await sidecar.outcome(2) == .ended)
        #expect(NIODeadline.now() - begun >= .seconds(3))
        try await sidecar.end()
    }

    /// It may be told of another address just then, or this machine's network may change.
    @Test func anErrorWhileItEndsIsTheEndOfDialling() async throws {
        let sidecar = try await Sidecar.start { $0.drainSeconds = 60 }
        try await sidecar.begin()
        try await Sidecar.on { sidecar.agent?.shutDown() }
        try await sidecar.wait { $0.heard.last == .stop }
        try await Sidecar.on { sidecar.close(.internalError) }
        #expect(try await sidecar.outcome(2) == .ended)
        let count = try await Sidecar.on {
            sidecar.agent?.dial(instead: [sidecar.address, sidecar.address])
            return sidecar.heard.count
        }
        try await Task.sleep(for: .milliseconds(500))
        #expect(try await Sidecar.on { sidecar.heard.count } == count)
        try await sidecar.end()
    }

    @Test func afterACrashItOnlyReleases() async throws {
        // It ends by itself three seconds after this.
        let sidecar = try await Sidecar.start {
            $0.onlyReleases = true
            $0.drainSeconds = 60
        }
        try await sidecar.wait { $0.heard == [.stop] }
        try await Sidecar.on { sidecar.say(.stopped(total: 0, passed: 0)) }
        #expect(try await sidecar.outcome() == .stopped(.init(total: 0, passed: 0, open: 0, reset: 0)))
        try await sidecar.end()
    }

    @Test func anAgentThatIsAbandonedTellsNothing() async throws {
        let sidecar = try await Sidecar.start()
        try await sidecar.begin()
        let count = try await Sidecar.on {
            defer {
                sidecar.agent?.abandon()
                sidecar.agent?.shutDown()
            }
            return sidecar.events.count
        }
        try await Sidecar.on { sidecar.say(.stopped(total: 1, passed: 0)) }
        try await Task.sleep(for: .milliseconds(100))
        #expect(try await Sidecar.on { sidecar.events.count } == count)
        #expect(try await Sidecar.on { sidecar.outcomes.count == 1 })
        try await sidecar.end()
    }
}
