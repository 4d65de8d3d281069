import Environments
import Foundation
import HostSupport
import InterceptModel
import NIOPosix
import TestSupport
import Testing

@testable import LocalEnvironment

struct RecordFileTests {
    let room: Room
    let folder: StateFolder
    let record: RecordFile

    init() throws {
        self.room = try Room()
        self.folder = try StateFolder.make(besideFile: self.room("compose.yaml"))
        self.record = RecordFile(in: self.folder)
    }

    @Test func claims() throws {
        let ada = Self.record("api", by: 1)
        let bob = Self.record("api", by: 2)
        #expect(try self.record.read() == RecordFile.Content())
        #expect(try self.record.claim(ada, force: false) == .claimed)
        #expect(try self.record.claim(bob, force: false) == .heldBy(ada))
        var again = ada
        again.ports = [InterceptRecord.Port(service: 8080, target: "localhost:3000")]
        #expect(try self.record.claim(again, force: false) == .claimed)
        #expect(try self.record.read().intercepts == [again])
        #expect(try self.record.claim(bob, force: true) == .takenOver(from: again))
        #expect(try self.record.claim(Self.record("web", by: 1), force: true) == .claimed)
        #expect(try !self.record.release(service: "api", publicKey: ada.holder.publicKey))
        #expect(try self.record.read().intercepts.first == bob)
        #expect(try self.record.release(service: "api", publicKey: bob.holder.publicKey))
        #expect(try self.record.read().intercepts == [Self.record("web", by: 1)])
        #expect(try mode(of: self.folder.record) == 0o600)
        #expect(Room.names(in: self.folder.path) == ["lock", "logs", "record.json"])
    }

    @Test func whatTheSidecarsSayIsNotKept() throws {
        var ada = Self.record("api", by: 1)
        ada.isDiverting = true
        ada.connections = InterceptRecord.Connections(open: 1, total: 2, passed: 3)
        #expect(try self.record.claim(ada, force: false) == .claimed)
        #expect(try self.record.read().intercepts == [Self.record("api", by: 1)])
    }

    @Test(arguments: 0..<10)
    func oneOfTwentyWins(_: Int) async throws {
        let record = self.record
        let results = try await withThrowingTaskGroup(of: ClaimResult.self) { group in
            for index in 0..<20 {
                group.addTask {
                    try await Blocking.run { try record.claim(Self.record("api", by: index), force: false) }
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        let winner = try #require(try record.read().intercepts.first)
        #expect(results.filter { $0 == .claimed }.count == 1)
        #expect(results.filter { $0 == .heldBy(winner) }.count == 19)
    }

    @Test func nobodyIsLost() async throws {
        let record = self.record
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<20 {
                group.addTask {
                    try await Blocking.run {
                        try record.add(Self.member(index))
                        _ = try record.claim(Self.record("s\(index)", by: index), force: false)
                    }
                }
            }
            try await group.waitForAll()
        }
        let content = try record.read()
        #expect(Set(content.members) == Set((0..<20).map(Self.member)))
        #expect(Set(content.intercepts.map(\.service)).count == 20)
    }

    @Test func members() throws {
        #expect(try self.record.add(Self.member(1)))
        #expect(try !self.record.add(Member(label: "ada@other\u{1B}[31m\n", publicKey: Self.key(1))))
        #expect(try self.record.read().members == [Member(label: "ada@other[31m", publicKey: Self.key(1))])
        #expect(try self.record.removeMember(publicKey: Self.key(1)))
        #expect(try !self.record.removeMember(publicKey: Self.key(1)))
        #expect(throws: Problem(.failed, "'nonsense' isn't a public key", "Make one with kl pubkey.")) {
            try self.record.add(Member(label: "x", publicKey: "nonsense"))
        }
    }

    @Test func caps() throws {
        var content = RecordFile.Content()
        content.members = (0..<1_024).map(Self.member)
        content.intercepts = (0..<1_000).map { Self.record("s\($0)", by: $0) }
        try SmallFile.replace(self.folder.record, with: Array(JSONEncoder().encode(content)))
        #expect(try self.record.read() == content)
        #expect(
            throws: Problem(
                .failed,
                "the environment has 1024 members already, and that is the most",
                "End it with kl env down," + " remove \(self.folder.record), and bring it up again."
            )
        ) { try self.record.add(Self.member(2_000)) }
        #expect(throws: Problem(.failed, "there are 1000 intercepts already", "Stop one first.")) {
            try self.record.claim(Self.record("one-more", by: 1), force: false)
        }
        #expect(
            try self.record.claim(Self.record("s0", by: 1), force: true) == .takenOver(from: Self.record("s0", by: 0))
        )
        content.members.append(Self.member(2_000))
        try SmallFile.replace(self.folder.record, with: Array(JSONEncoder().encode(content)))
        #expect(throws: Problem.self) { try self.record.read() }
    }

    @Test(arguments: [
        "", "{", "[]", "{\"version\":1}", "{\"version\":\"1\"}",
        "{\"version\":1,\"members\":[{\"label\":\"x\"}],\"intercepts\":[]}",
        "{\"version\":1,\"members\":[{\"label\":\"x\",\"publicKey\":\"a\\nb\"}],\"intercepts\":[]}",
    ])
    func broken(text: String) throws {
        try self.room.file(".kl/record.json", text)
        let error = Problem(
            .failed,
            "\(self.folder.record) isn't as kl wrote it",
            "Mend it. Removing it cuts off everybody who has joined the environment:"
                + " they must connect and start their intercepts again."
        )
        #expect(throws: error) { try self.record.read() }
        #expect(throws: error) { try self.record.claim(Self.record("api", by: 1), force: true) }
        #expect(try SmallFile.read(self.folder.record) == Array(text.utf8))
    }

    @Test func anotherVersion() throws {
        try self.room.file(".kl/record.json", "{\"version\":3,\"people\":[]}")
        #expect(
            throws: Problem(
                .failed,
                "\(self.folder.record) was written by another version of kl",
                "Use that version to end the environment" + " (kl env down), then try again."
            )
        ) { try self.record.read() }
    }

    // MARK: Several holders

    @Test func severalHolders() throws {
        let ada = Self.record("api", by: 1, ports: [80, 81])
        let bob = Self.record("api", by: 2, ports: [82])
        #expect(try self.record.claim(ada, force: false) == .claimed)
        #expect(try self.record.claim(bob, force: false) == .claimed)
        #expect(try self.record.claim(Self.record("api", by: 3, ports: [83, 82]), force: false) == .heldBy(bob))
        // What is right for its first port isn't for the second.
        #expect(try self.record.claim(Self.record("api", by: 2, ports: [82, 81]), force: false) == .heldBy(ada))
        #expect(try self.record.read().intercepts == [ada, bob])
        let all = Self.record("api", by: 3, ports: [81, 82, 90])
        #expect(try self.record.claim(all, force: true) == .takenOver(from: ada))
        #expect(try self.record.read().intercepts == [all])
        // UDP's ports are others.
        var datagrams = Self.record("api", by: 4, ports: [])
        datagrams.ports = [.init(service: 81, transport: .udp, target: "x")]
        #expect(try self.record.claim(datagrams, force: false) == .claimed)
        #expect(try self.record.release(service: "api", publicKey: all.holder.publicKey))
        #expect(try self.record.read().intercepts == [datagrams])
    }

    @Test func mirrors() throws {
        let ada = Self.record("api", by: 0, ports: [80])
        #expect(try self.record.claim(ada, force: false) == .claimed)
        for number in 1...16 {
            #expect(try self.record.claim(Self.mirror("api", by: number, ports: [80]), force: false) == .claimed)
        }
        #expect(throws: Problem.tooManyMirrors(of: "api")) {
            try self.record.claim(Self.mirror("api", by: 17, ports: [80]), force: false)
        }
        #expect(try self.record.claim(Self.mirror("api", by: 16, ports: [81]), force: false) == .claimed)
        #expect(try self.record.claim(Self.mirror("web", by: 17, ports: [80]), force: false) == .claimed)
        #expect(throws: Problem.held("api", as: .mirror)) {
            try self.record.claim(Self.record("api", by: 1, ports: [80]), force: true)
        }
        #expect(throws: Problem.held("api", as: .intercept)) {
            try self.record.claim(Self.mirror("api", by: 0, ports: [80]), force: false)
        }
        // Who takes the port over takes it from its holder alone.
        let bob = Self.record("api", by: 20, ports: [80])
        #expect(try self.record.claim(bob, force: true) == .takenOver(from: ada))
        #expect(try self.record.read().intercepts.count == 18)
    }

    @Test(arguments: 0..<5)
    func oneOfFiftyWinsEachPort(_: Int) async throws {
        let record = self.record
        let results = try await withThrowingTaskGroup(of: (UInt16, ClaimResult).self) { group in
            for index in 0..<50 {
                let port = UInt16(80 + index % 3)
                group.addTask {
                    (
                        port,
                        try await Blocking.run {
                            try record.claim(Self.record("api", by: index, ports: [port]), force: false)
                        }
                    )
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        let entries = try record.read().intercepts
        #expect(entries.count == 3)
        for port in UInt16(80)...82 {
            let winner = try #require(entries.first { $0.ports.map(\.service) == [port] })
            let mine = results.filter { $0.0 == port }.map(\.1)
            #expect(mine.count { $0 == .claimed } == 1)
            #expect(mine.count { $0 == .heldBy(winner) } == mine.count - 1)
        }
    }

    /// What an earlier version wrote is read as intercepts, and what it can read is written as it wrote it.
    @Test func versions() throws {
        let old = """
            {"version":1,"members":[],"intercepts":[{"service":"api","since":"2026-11-22T21:40:03Z","holder":{"label":\
            "ada1@thinkpad","publicKey":"\(Self.key(1))"},"ports":[{"service":80,"target":"localhost:3000"}]}]}
            """
        try self.room.file(".kl/record.json", old)
        #expect(try self.record.read().intercepts == [Self.record("api", by: 1, ports: [80])])
        #expect(try self.record.read().intercepts.map(\.kind) == [.intercept])
        func version() throws -> Int { try self.record.read().version }
        func isWritten(_ text: String) throws -> Bool {
            String(decoding: try SmallFile.read(self.folder.record) ?? [], as: UTF8.self).contains(text)
        }
        _ = try self.record.claim(Self.record("web", by: 2, ports: [80]), force: false)
        #expect(try version() == 1)
        #expect(try isWritten("\"version\" : 1"))
        #expect(try !isWritten("kind"))
        _ = try self.record.claim(Self.mirror("web", by: 3, ports: [80]), force: false)
        #expect(try isWritten("\"version\" : 2"))
        #expect(try isWritten("\"kind\" : \"mirror\""))
        try self.record.release(service: "web", publicKey: Self.key(3))
        #expect(try version() == 1)
        _ = try self.record.claim(Self.record("web", by: 3, ports: [81]), force: false)
        #expect(try isWritten("\"version\" : 2"))
    }

    /// Another user may have written it.
    @Test(arguments: [
        // One key twice.
        [Self.record("api", by: 1, ports: [80]), Self.mirror("api", by: 1, ports: [81])],
        // A port of two.
        [Self.record("api", by: 1, ports: [80]), Self.record("api", by: 2, ports: [81, 80])],
        [Self.record("api", by: 1, ports: [80]), Self.record("api", by: 2, ports: [])],
        (0..<17).map { Self.mirror("api", by: $0, ports: [80]) },
    ])
    func whatCannotBe(entries: [InterceptRecord]) throws {
        var content = RecordFile.Content()
        content.intercepts = entries
        try SmallFile.replace(self.folder.record, with: Array(JSONEncoder().encode(content)))
        #expect(throws: Problem.self) { try self.record.read() }
        content.intercepts.removeLast()
        try SmallFile.replace(self.folder.record, with: Array(JSONEncoder().encode(content)))
        #expect(try self.record.read() == content)
    }

    @Test func lastSeen() throws {
        var ada = Self.record("api", by: 1, ports: [80])
        ada.lastSeen = "2026-11-22T21:40:03Z"
        let seen = try #require(UTCTime(rfc3339: "2026-11-22T21:40:03Z"))
        #expect(try self.record.claim(ada, force: false) == .claimed)
        func touch(after seconds: Int) throws -> String? {
            try self.record.touch(
                service: "api",
                publicKey: Self.key(1),
                at: UTCTime(seconds: seen.seconds + seconds)
            )
            return try self.record.read().intercepts.first?.lastSeen
        }
        #expect(try touch(after: 59) == ada.lastSeen)
        #expect(try touch(after: 60) == "2026-11-22T21:41:03Z")
        // A clock that went back.
        #expect(try touch(after: 10) == "2026-11-22T21:40:13Z")
        // Only one's own, and none is made.
        try self.record.touch(service: "api", publicKey: Self.key(2))
        #expect(try self.record.read().intercepts.count == 1)
    }

    static func key(_ number: Int) -> String {
        var bytes = [UInt8](repeating: 7, count: 32)
        bytes[0] = UInt8(truncatingIfNeeded: number)
        bytes[1] = UInt8(truncatingIfNeeded: number >> 8)
        return Data(bytes).base64EncodedString()
    }

    static func member(_ number: Int) -> Member { Member(label: "ada\(number)@thinkpad", publicKey: Self.key(number)) }

    static func record(_ service: String, by number: Int, ports: [UInt16] = []) -> InterceptRecord {
        InterceptRecord(
            service: service,
            holder: Self.member(number),
            since: "2026-11-22T21:40:03Z",
            ports: ports.map { .init(service: $0, target: "localhost:3000") }
        )
    }

    static func mirror(_ service: String, by number: Int, ports: [UInt16]) -> InterceptRecord {
        var record = Self.record(service, by: number, ports: ports)
        record.kind = .mirror
        return record
    }

    /// An entry of an earlier kl ages from when no sidecar knows it, one that a sidecar knows doesn't.
    @Test func `entries that no sidecar knows`() throws {
        let start = 1_800_000_000
        _ = try self.record.claim(Self.record("api", by: 1, ports: [80]), force: false)
        func claim(after seconds: Int, isUnknown: Bool = true) throws -> ClaimResult {
            let now = UTCTime(seconds: start + seconds)
            let record = Self.record("api", by: 2, ports: [80])
            return try self.record.claim(record, force: false, at: now) { _ in isUnknown }
        }
        for seconds in [0, 599] {
            guard case .heldBy = try claim(after: seconds) else {
                Issue.record("\(seconds)")
                continue
            }
        }
        guard case .heldBy = try claim(after: 600, isUnknown: false) else {
            Issue.record("known")
            return
        }
        #expect(try claim(after: 600) == .claimed)
        #expect(try self.record.read().intercepts.map(\.holder.publicKey) == [Self.key(2)])
    }
}
