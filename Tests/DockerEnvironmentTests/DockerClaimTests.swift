import Environments
import HostSupport
import InterceptModel
import Noise
import SidecarInterface
import Testing

@testable import DockerEnvironment

private let hasDocker = (try? FilterProcess.program(["docker"])) != nil

/// Several workspaces at one service, against an engine that is a script.
@Suite(.enabled(if: hasDocker, "needs a docker program in PATH")) struct DockerClaimTests {
    /// A workspace with its key, its view of the engine, and its claim to `web`.
    private struct Workspace {
        let name: String
        let key = StaticKeyPair.generate().publicKey.base64
        let environment: DockerEnvironment

        init(_ name: String, at engine: FakeEngine) throws {
            self.name = name
            self.environment = try engine.environment(of: "\(engine.folder)-\(name)")
        }

        func claim(_ ports: [UInt16], kind: HoldingKind = .intercept, image: String? = nil) -> DockerClaim {
            let record = InterceptRecord(
                service: "web",
                holder: Member(label: self.name, publicKey: self.key),
                since: "2026-11-23T18:00:00Z",
                ports: ports.map { .init(service: $0, target: "") },
                kind: kind
            )
            return DockerClaim(self.environment, record, SidecarOptions(image: image, ports: ports.map { .init($0) }))
        }

        func holding(_ ports: String, _ kind: HoldingKind = .intercept) -> String {
            "\(self.key) \(self.name) \(kind.rawValue) \(ports)"
        }
    }

    private let names = ["kl-shop-web-1", "kl-shop-web-2", "kl-shop-web-3"]

    /// What `begin` of the daemon does.
    private func start(_ claim: DockerClaim, force: Bool = false) async throws -> ClaimResult {
        let result = try await claim.take(force: force)
        if case .heldBy = result { return result }
        #expect(try await claim.sidecars().count == 3)
        return result
    }

    @Test func theFirstMakesTheSidecarsAndOthersAreAdmitted() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob, eve) = (
            try Workspace("ada", at: engine), try Workspace("bob", at: engine), try Workspace("eve", at: engine)
        )
        #expect(try await self.start(ada.claim([80])) == .claimed)
        #expect(try await self.start(bob.claim([80], kind: .mirror)) == .claimed)
        for name in self.names {
            #expect(engine.holders(name) == [ada.holding("80"), bob.holding("80", .mirror)].sorted())
        }
        #expect(engine.calls.filter { $0.hasPrefix("run ") }.count == 3)
        #expect(engine.calls.contains { $0.contains("admit \(bob.key)") && $0.contains("--may=mirror") })
        guard case .heldBy(let holder) = try await eve.claim([80]).take(force: false) else {
            Issue.record("two have one port")
            return
        }
        #expect(holder.holder.label == "ada" && holder.since == "2026-11-23T18:00:00Z")

        let records = try await eve.environment.intercepts()
        #expect(records.map(\.holder.label) == ["ada", "bob"] && records.map(\.kind) == [.intercept, .mirror])
        #expect(records.allSatisfy { $0.isDiverting == true && $0.ports.map(\.port) == [.init(80)] })
        #expect(records.last?.connections == .init(open: 3, total: 6, passed: 9, behind: 12))

        try await ada.claim([80]).release()
        for name in self.names { #expect(engine.holders(name) == [bob.holding("80", .mirror)]) }
        try await bob.claim([80], kind: .mirror).release()
        await eve.environment.model.touch()
        #expect(try await eve.environment.intercepts().isEmpty)
        #expect(!engine.calls.contains { $0.hasPrefix("rm ") || $0.hasPrefix("stop ") })
    }

    @Test func ofThreeAtOnceOneGetsAPort() async throws {
        for _ in 0..<3 {
            let engine = try FakeEngine(services: ["web": 3])
            let all = try ["ada", "bob", "eve"].map { try Workspace($0, at: engine) }
            let results = try await withThrowingTaskGroup { group in
                for workspace in all {
                    group.addTask { (workspace.name, try await self.start(workspace.claim([80]))) }
                }
                return try await group.reduce(into: [String: ClaimResult]()) { $0[$1.0] = $1.1 }
            }
            let winners = all.filter { results[$0.name] == .claimed }
            #expect(winners.count == 1)
            for workspace in all where results[workspace.name] != .claimed {
                guard case .heldBy(let other) = results[workspace.name] else {
                    Issue.record("\(workspace.name): \(String(describing: results[workspace.name]))")
                    continue
                }
                #expect(other.holder.label == winners.first?.name)
            }
            // Who lost has left nothing behind.
            for name in self.names { #expect(engine.holders(name) == winners.map { $0.holding("80") }) }
        }
    }

    @Test func whoTakesOverReplacesNoContainer() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        let before = engine.calls.count
        guard case .takenOver(let from) = try await self.start(bob.claim([80]), force: true) else {
            Issue.record("not taken over")
            return
        }
        #expect(from.holder.label == "ada")
        for name in self.names { #expect(engine.holders(name) == [bob.holding("80")]) }
        let words = Set(engine.calls.dropFirst(before).map { $0.prefix { $0 != " " } })
        #expect(words.isDisjoint(with: ["run", "rm", "rename", "stop"]))
        guard case .lost(let to) = try await ada.claim([80]).reconcile(.doubtful) else {
            Issue.record("ada doesn't notice")
            return
        }
        #expect(to.holder.label == "bob")
        // What she gives back isn't his.
        try await ada.claim([80]).release()
        for name in self.names { #expect(engine.holders(name) == [bob.holding("80")]) }
    }

    /// The sidecars' names once there are four, or in the end.
    private func restored(_ claim: DockerClaim) async throws -> [String] {
        var names: [String] = []
        for _ in 0..<600 {
            guard case .sidecars(let sidecars) = try await claim.reconcile(.incomplete) else {
                Issue.record("it was lost")
                return names
            }
            names = sidecars.map(\.name)
            if names.count == 4 { break }
            try await Task.sleep(for: .milliseconds(50))
        }
        return names
    }

    @Test func whatIsLostIsRestored() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        #expect(try await self.start(bob.claim([81])) == .claimed)
        // Both find that one is gone, and that a replica is new.
        _ = try await ada.environment.model.client.run(["rm", "--force", self.names[1]])
        try engine.add("web", 4)
        // What two make at once only one of them makes; the other may return without it, and tries again later.
        async let hers = self.restored(ada.claim([80]))
        async let his = self.restored(bob.claim([81]))
        for sidecars in [try await hers, try await his] { #expect(sidecars == ["web-1", "web-2", "web-3", "web-4"]) }
        for name in self.names + ["kl-shop-web-4"] {
            #expect(engine.holders(name) == [ada.holding("80"), bob.holding("81")].sorted())
        }
        // A sidecar that has forgotten her is told again.
        try engine.write("sidecars/\(self.names[2])/holders", bob.holding("81") + "\n")
        _ = try await ada.claim([80]).reconcile(.doubtful)
        #expect(engine.holders(self.names[2]) == [ada.holding("80"), bob.holding("81")].sorted())
    }

    @Test func whoNeedsAnotherSidecarReplacesOnlyItsOwn() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        // It doesn't serve this one: it is made anew, since nobody else needs it.
        #expect(try await self.start(ada.claim([80, 9_999])) == .claimed)
        #expect(engine.holders(self.names[0]) == [ada.holding("80,9999")])
        #expect(try await self.start(bob.claim([9_999], kind: .mirror)) == .claimed)
        for (claim, words) in [
            (bob.claim([7], kind: .mirror), "doesn't serve port 7"),
            (
                bob.claim([80], kind: .mirror, image: "kl-sidecar:other"),
                "is of another image than --sidecar-image names"
            ),
        ] {
            let error = await #expect(throws: Problem.self) { try await claim.take(force: true) }
            #expect(
                error?.description.contains("\(self.names[0]) \(words), and isn't replaced while others need it: ada")
                    == true
            )
        }
        #expect(engine.holders(self.names[0]) == [ada.holding("80,9999"), bob.holding("9999", .mirror)].sorted())
    }

    @Test func whileTheFirstReplicaComesBackTheOthersSayWhoHasAPort() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        _ = try await bob.environment.model.client.run(["rm", "--force", self.names[0]])
        guard case .heldBy(let holder) = try await bob.claim([80, 81]).take(force: false) else {
            Issue.record("taken from its holder")
            return
        }
        #expect(holder.holder.label == "ada" && holder.ports.map(\.port) == [.init(80)])
        #expect(engine.holders(self.names[0]).isEmpty)
        // Another port, or a copy, is free.
        #expect(try await self.start(bob.claim([81])) == .claimed)
        #expect(engine.holders(self.names[0]) == [bob.holding("81")])
        guard case .sidecars(let sidecars) = try await ada.claim([80]).reconcile(.incomplete) else {
            Issue.record("ada has lost it")
            return
        }
        #expect(sidecars.count == 3)
        for name in self.names { #expect(engine.holders(name) == [ada.holding("80"), bob.holding("81")].sorted()) }

        _ = try await bob.environment.model.client.run(["rm", "--force", self.names[0]])
        #expect(try await self.start(bob.claim([80], kind: .mirror)) == .claimed)
        _ = try await bob.environment.model.client.run(["rm", "--force", self.names[0]])
        _ = try await bob.claim([80]).take(force: true)
        for name in self.names { #expect(engine.holders(name).contains(bob.holding("80"))) }
    }

    @Test func whoHasMadeTheFirstSidecarLeavesItToAHolder() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        let holding = engine.read("sidecars/\(self.names[1])/holders")
        for name in self.names.dropFirst() { try engine.write("sidecars/\(name)/holders", "") }
        _ = try await bob.environment.model.client.run(["rm", "--force", self.names[0]])
        // She comes back there while his container is being made.
        try engine.write("on-run", "echo '\(holding)' >sidecars/\(self.names[1])/holders")
        guard case .heldBy(let holder) = try await bob.claim([80]).take(force: false) else {
            Issue.record("taken from its holder")
            return
        }
        #expect(holder.holder.label == "ada")
        #expect(engine.calls.contains { $0.hasPrefix("run ") && $0.contains("--peer \(bob.key)") })
        #expect(engine.holders(self.names[0]).isEmpty && engine.read("sidecars/\(self.names[0])/line").isEmpty)
    }

    @Test func aContainerThatIsNeverStartedBlocksNobody() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        // As if her machine had been lost while it made them.
        for name in self.names {
            let line = engine.read("sidecars/\(name)/line")
            try engine.write(
                "sidecars/\(name)/line",
                line.replacing(#""status":"running""#, with: #""status":"created""#)
            )
            try engine.write("sidecars/\(name)/holders", "")
        }
        // It may still be started.
        let error = await #expect(throws: Problem.self) { try await bob.claim([80]).take(force: true) }
        #expect(error?.description.contains("its container doesn't run yet") == true)
        await bob.environment.model.expectContainers(within: .zero)
        #expect(try await self.start(bob.claim([80])) == .claimed)
        for name in self.names { #expect(engine.holders(name) == [bob.holding("80")]) }
    }

    @Test func aSidecarThatPassesOnConnectionsIsNotReplaced() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let ada = try Workspace("ada", at: engine)
        #expect(try await self.start(ada.claim([80])) == .claimed)
        try engine.write("sidecars/\(self.names[0])/open", "")
        let error = await #expect(throws: Problem.self) { try await ada.claim([80, 9_999]).take(force: true) }
        #expect(
            error?.description.contains(
                "doesn't serve port 9999, and isn't replaced while it still passes on 2 connections"
            ) == true
        )
        #expect(engine.holders(self.names[0]) == [ada.holding("80")])
        #expect(!engine.calls.contains { $0.hasPrefix("rm ") })
    }

    @Test func aSidecarOfAnEarlierVersionServesItsMakerAlone() async throws {
        let engine = try FakeEngine(services: ["web": 3])
        let (ada, bob) = (try Workspace("ada", at: engine), try Workspace("bob", at: engine))
        #expect(try await self.start(ada.claim([80])) == .claimed)
        for name in self.names {
            let line = engine.read("sidecars/\(name)/line").replacing(#","io.kl.admits":"1""#, with: "")
            try engine.write("sidecars/\(name)/line", line)
        }
        for kind in [HoldingKind.intercept, .mirror] {
            guard case .heldBy(let holder) = try await bob.claim([81], kind: kind).take(force: false) else {
                Issue.record("a sidecar that admits nobody was asked")
                continue
            }
            #expect(holder.holder.label == "ada")
        }
        #expect(try await bob.environment.intercepts().map(\.holder.label) == ["ada"])
        #expect(!engine.calls.contains { $0.hasPrefix("exec ") })
    }
}

extension DockerModel {
    fileprivate func expectContainers(within time: Duration) { self.comesWithin = time }
}

struct DockerRecordsTests {
    private func words(_ holders: [SidecarReport.Holder]?) -> SidecarWords {
        var words = SidecarWords(publicKey: key, port: 1)
        words.holders = holders
        return words
    }

    private func made(_ number: Int, admits: Bool = true) throws -> DockerSidecar {
        var container = sidecar("web", number)
        if admits { container.labels?[SidecarLabel.admits] = "1" }
        return try #require(DockerSidecar(container))
    }

    @Test func eachHolderIsOneRecord() throws {
        let bob = StaticKeyPair.generate().publicKey.base64
        var first = SidecarReport.Holder(
            key: bob,
            workspace: "bob\u{1b}[31m",
            kind: .mirror,
            ports: [.init(80), .init(53, .udp)],
            since: "2026-11-23T18:00:01Z"
        )
        first.lastSeen = "2026-11-23T18:00:05Z"
        var second = first
        second.since = "2026-11-23T18:00:00Z"
        second.lastSeen = "2026-11-23T18:00:04Z"
        second.ports = ["81", "x", "0"]
        second.isServed = true
        let odd = SidecarReport.Holder(key: "AAAA", workspace: "odd", kind: .intercept, ports: [], since: "")
        let records = DockerRecords(
            of: "web",
            [(try self.made(1), self.words([odd, first])), (try self.made(2), self.words([second]))]
        ).all
        // The maker has left: what the labels say counts no more.
        #expect(records.map(\.holder.label) == ["bob[31m"])
        #expect(records.first?.ports.map { "\($0.port)" } == ["80", "81", "53/udp"])
        #expect(records.first?.since == "2026-11-23T18:00:00Z" && records.first?.lastSeen == "2026-11-23T18:00:05Z")
        #expect(records.first?.isDiverting == true)
    }

    @Test func withoutHoldersTheLabelsCount() throws {
        for said in [nil, self.words(nil)] {
            let records = DockerRecords(of: "web", [(try self.made(1), said)]).all
            #expect(records.map(\.holder.label) == ["ada@thinkpad"])
        }
        #expect(DockerRecords(of: "web", [(try self.made(1), self.words([]))]).all.isEmpty)
        let earlier = DockerRecords(of: "web", [(try self.made(1, admits: false), self.words([]))]).all
        #expect(earlier.map(\.holder.label) == ["ada@thinkpad"])
    }
}
