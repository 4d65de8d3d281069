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
            "Remove the file, then start your intercepts again:" + " it says who may connect, and who intercepts what."
        )
        #expect(throws: error) { try self.record.read() }
        #expect(throws: error) { try self.record.claim(Self.record("api", by: 1), force: true) }
        #expect(try SmallFile.read(self.folder.record) == Array(text.utf8))
    }

    @Test func anotherVersion() throws {
        try self.room.file(".kl/record.json", "{\"version\":2,\"people\":[]}")
        #expect(
            throws: Problem(
                .failed,
                "\(self.folder.record) was written by another version of kl",
                "Use that version to end the environment" + " (kl env down), then try again."
            )
        ) { try self.record.read() }
    }

    static func key(_ number: Int) -> String {
        var bytes = [UInt8](repeating: 7, count: 32)
        bytes[0] = UInt8(truncatingIfNeeded: number)
        bytes[1] = UInt8(truncatingIfNeeded: number >> 8)
        return Data(bytes).base64EncodedString()
    }

    static func member(_ number: Int) -> Member { Member(label: "ada\(number)@thinkpad", publicKey: Self.key(number)) }

    static func record(_ service: String, by number: Int) -> InterceptRecord {
        InterceptRecord(service: service, holder: Self.member(number), since: "2026-11-22T21:40:03Z", ports: [])
    }
}
