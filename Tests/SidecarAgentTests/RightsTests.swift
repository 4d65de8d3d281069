import CommandText
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import NIOPosix
import Noise
import Testing

@testable import SidecarAgent

@Suite struct RightsTests {
    private let key = StaticKeyPair.generate().publicKey
    private let loop = MultiThreadedEventLoopGroup.singleton.next()

    /// Runs the body with an agent that accepts these keys, has the ports 80 and 81, and isn't started.
    private func withAgent<Result: Sendable>(
        accepting peers: [AcceptedKey],
        _ body: @escaping @Sendable (SidecarAgent) -> Result
    ) async throws -> Result {
        var configuration = SidecarAgent.Configuration(
            staticKey: .generate(),
            peers: [],
            tunnelAddress: Endpoint(host: "127.0.0.1", port: 0),
            servedPorts: [80, 81].map {
                ServedPort(ServicePort($0), upstream: Endpoint(host: "127.0.0.1", port: 1))
            },
            divert: .listenOnAll(host: "127.0.0.1"),
            log: Logger(label: "sidecar") { _ in SwiftLogNoOpLogHandler() }
        )
        configuration.peers = peers
        let loop = self.loop
        return try await loop.submit { [configuration] in
            let agent = SidecarAgent(configuration, eventLoop: loop)
            agent.accept(peers)
            return body(agent)
        }.get()
    }

    private func denial(
        _ grant: Grant?,
        _ kind: HoldingKind,
        _ ports: ServicePort...,
        refuses: Bool = false
    ) async throws
        -> String?
    {
        let (key, asked) = (self.key, Set(ports))
        return try await self.withAgent(accepting: [AcceptedKey(key, grant: grant)]) {
            $0.denial(of: key, kind, asked, refuses: refuses)?.reason
        }
    }

    @Test func `each right is needed for what it is called`() async throws {
        let all = Grant.everything
        #expect(try await self.denial(nil, .intercept, .init(80), refuses: true) == nil)
        #expect(try await self.denial(all, .intercept, .init(80), refuses: true) == nil)
        let no = "this workspace's key has no right here"
        let mirror = Grant([.mirror])
        #expect(try await self.denial(mirror, .mirror, .init(80)) == nil)
        #expect(try await self.denial(mirror, .intercept, .init(80)) == "\(no) to intercept port 80")
        #expect(try await self.denial(mirror, .intercept) == "\(no) to intercept ports")
        let intercept = Grant([.intercept])
        #expect(try await self.denial(intercept, .intercept, .init(80)) == nil)
        #expect(
            try await self.denial(intercept, .mirror, .init(81), .init(80)) == "\(no) to mirror ports 80,81"
        )
        #expect(
            try await self.denial(intercept, .intercept, .init(80), refuses: true)
                == "\(no) to refuse clients of port 80"
        )
        let one = Grant([.intercept, .mirror], ports: [.init(80)])
        for kind in HoldingKind.allCases {
            #expect(try await self.denial(one, kind, .init(80)) == nil)
            #expect(
                try await self.denial(one, kind, .init(80), .init(81))
                    == "\(no) to \(kind.rawValue) port 81, only 80"
            )
        }
    }

    @Test func `who admits is told what stands in the way`() async throws {
        let (ada, bo, cy) = (self.key, StaticKeyPair.generate().publicKey, StaticKeyPair.generate().publicKey)
        let claim = Admission.Claim(.intercept, [.init(80)])
        let outcomes = try await self.withAgent(accepting: []) { agent in
            [
                agent.admit(AcceptedKey(ada, label: "ada", claim: claim), force: false),
                agent.admit(AcceptedKey(bo, label: "bo", claim: claim), force: false),
                agent.admit(AcceptedKey(bo, label: "bo", claim: .init(.intercept, [.init(82)])), force: false),
                agent.admit(AcceptedKey(bo, label: "bo", claim: .init(.mirror, [.init(80)])), force: false),
                agent.admit(AcceptedKey(cy, grant: Grant([.mirror]), claim: claim), force: true),
                agent.admit(AcceptedKey(cy, claim: claim), force: true),
            ]
        }
        #expect(outcomes[0] == .admitted && outcomes[3] == .admitted && outcomes[5] == .admitted)
        #expect(Self.failure(outcomes[1])?.code == .busy && Self.failure(outcomes[1])?.holder == "ada")
        #expect(Self.failure(outcomes[1])?.reason == "port 80 is intercepted by ada, who hasn't begun yet")
        #expect(Self.failure(outcomes[2])?.code == .port)
        #expect(Self.failure(outcomes[4])?.code == .denied)
    }

    @Test func `an admission that is refused leaves what was before`() async throws {
        let (ada, bo) = (self.key, StaticKeyPair.generate().publicKey)
        let claim = Admission.Claim(.intercept, [.init(80)])
        let (holders, rights) = try await self.withAgent(accepting: []) { agent in
            _ = agent.admit(AcceptedKey(ada, claim: claim), force: false)
            _ = agent.admit(AcceptedKey(bo, grant: Grant([.mirror])), force: false)
            _ = agent.admit(AcceptedKey(bo, grant: Grant([.intercept]), claim: claim), force: false)
            return (agent.holders, agent.accepted(bo)?.grant)
        }
        #expect(holders.map(\.key) == [ada] && holders[0].generation == nil && !holders[0].isServed)
        #expect(rights == Grant([.mirror]))
        let left = try await self.withAgent(accepting: []) { agent in
            _ = agent.admit(AcceptedKey(ada, claim: claim), force: false)
            return (agent.leave(bo), agent.leave(ada), agent.leave(ada), agent.holders, agent.admittedKeys)
        }
        #expect(left.0 == false && left.1 && left.2 == false && left.3 == [] && left.4 == [])
    }

    @Test func `what stands in the file counts, not what is admitted besides`() async throws {
        let key = self.key
        let configured = AcceptedKey(key, grant: Grant([.mirror]))
        let denied = try await self.withAgent(accepting: [configured]) { agent in
            _ = agent.admit(AcceptedKey(key, grant: .everything), force: false)
            let before = agent.denial(of: key, .intercept, [.init(80)], refuses: false)
            agent.accept([])
            return (before?.code, agent.accepted(key))
        }
        #expect(denied.0 == .denied && denied.1 == nil)
    }

    @Test func `who is taken out of the file is out, whatever was admitted`() async throws {
        let key = self.key
        let configured = AcceptedKey(key, grant: Grant([.mirror]))
        let claim = Admission.Claim(.mirror, [.init(80)])
        let (claimed, during, after) = try await self.withAgent(accepting: []) { agent in
            // Before it is in the file, and while it is.
            _ = agent.admit(AcceptedKey(key, grant: .everything), force: false)
            agent.accept([configured])
            _ = agent.admit(AcceptedKey(key, grant: .everything, claim: claim), force: false)
            let (holders, rights) = (agent.holders, agent.accepted(key)?.grant)
            agent.accept([])
            return (holders.map(\.ports), rights, (agent.accepted(key), agent.admittedKeys))
        }
        #expect(claimed == [[.init(80)]] && during == Grant([.mirror]))
        #expect(after.0 == nil && after.1 == [])
    }

    @Test func `an admitted key leaves, also if it was in the file once`() async throws {
        let key = self.key
        let left = try await self.withAgent(accepting: [AcceptedKey(key)]) { agent in
            agent.accept([])
            _ = agent.admit(AcceptedKey(key), force: false)
            return (agent.isConfigured(key), agent.leave(key), agent.accepted(key))
        }
        #expect(!left.0 && left.1 && left.2 == nil)
    }

    @Test func `ports that a workspace invents don't fill the log`() async throws {
        let key = self.key
        let invented = Set((1...1_024).map { ServicePort($0) })
        let (lines, reason) = try await self.withAgent(accepting: [AcceptedKey(key, grant: Grant([.mirror]))]) {
            agent in
            var lines: [AuditLine] = []
            agent.onAudit = { lines.append($0) }
            agent.audit(.refusal, key, "port", .intercept, invented)
            return (lines, agent.denial(of: key, .intercept, invented, refuses: false)?.reason)
        }
        #expect(lines.map(\.ports) == [[.init(80), .init(81)]] && lines.map(\.morePorts) == [1_022])
        #expect(
            reason
                == "this workspace's key has no right here to intercept ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 "
                + "and 1008 more"
        )
    }

    @Test func `the audit is limited for each key, and says what it left out`() async throws {
        let (ada, bo) = (self.key, StaticKeyPair.generate().publicKey)
        let lines = try await self.withAgent(accepting: [AcceptedKey(ada, label: "ada"), AcceptedKey(bo)]) { agent in
            var lines: [AuditLine] = []
            agent.onAudit = { lines.append($0) }
            for _ in 0..<100 { agent.audit(.refusal, ada, "denied", .mirror, [.init(80)]) }
            agent.audit(.refusal, bo, "denied")
            return lines
        }
        #expect(lines.count == 21 && lines.allSatisfy { $0.leftOut == 0 })
        #expect(lines[0].label == "ada" && lines[0].ports == [.init(80)] && lines[20].key == bo)
    }

    @Test func `what the audit left out is counted, and its last line comes later`() {
        let share = AuditShare()
        let start = NIODeadline.uptimeNanoseconds(0)
        let lines = (0..<30).map { AuditLine(event: .start, key: self.key, label: "", ports: [], result: "\($0)") }
        let taken = lines.compactMap { share.take($0, at: start) }
        #expect(taken.map(\.result) == (0..<20).map { "\($0)" } && taken.allSatisfy { $0.leftOut == 0 })
        #expect(share.takeWaiting(at: start + .milliseconds(999)) == nil && share.hasWaiting)
        #expect(share.next == start + .seconds(1))
        let last = share.takeWaiting(at: start + .seconds(1))
        #expect(last?.result == "29" && last?.leftOut == 9 && !share.hasWaiting)
        #expect(share.take(lines[0], at: start + .seconds(1)) == nil)
        let next = share.take(lines[1], at: start + .seconds(2))
        #expect(next?.result == "1" && next?.leftOut == 1)
    }

    @Test func `no key uses up the audit of what others do to it`() async throws {
        let (ada, bo, cy) = (self.key, StaticKeyPair.generate().publicKey, StaticKeyPair.generate().publicKey)
        let lines = try await self.withAgent(accepting: [ada, bo, cy].map { AcceptedKey($0) }) { agent in
            var lines: [AuditLine] = []
            agent.onAudit = { lines.append($0) }
            for _ in 0..<100 {
                agent.audit(.start, ada, "started")
                agent.audit(.takeover, ada, "taken from bo", from: bo)
                agent.audit(.takeover, bo, "taken from ada", from: ada)
            }
            agent.audit(.takeover, ada, "taken from cy", from: cy)
            for event in [AuditLine.Event.admission, .leave, .withdrawal, .revocation, .expiry] {
                agent.audit(event, ada, "done")
            }
            return lines
        }
        #expect(lines.count == 66)
        #expect(lines[60].takenFrom == cy && lines[60...].allSatisfy { $0.key == ada })
    }

    private static func failure(_ outcome: SidecarAgent.AdmissionOutcome) -> ControlMessage.Failure? {
        if case .refused(let failure) = outcome { failure } else { nil }
    }
}
