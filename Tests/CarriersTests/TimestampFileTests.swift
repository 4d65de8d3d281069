import Foundation
import Noise
import Testing
import Tunnel

@testable import Carriers

@Suite struct TimestampFileTests {
    private static func folder() -> String { "\(NSTemporaryDirectory())timestamps-\(UUID().uuidString)" }

    @Test func whatWasStoredIsFoundAgain() throws {
        let folder = Self.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (one, other) = (StaticKeyPair.generate().publicKey, StaticKeyPair.generate().publicKey)
        let file = try TimestampFile(folder: folder, responder: one)
        #expect(file.last == nil)
        let early = TAI64N(unixSeconds: 1_795_909_211, nanoseconds: 7)
        let late = TAI64N(unixSeconds: 1_795_909_212, nanoseconds: 999_999_999)
        file.store(late)
        #expect(try TimestampFile(folder: folder, responder: one).last == late)
        #expect(try TimestampFile(folder: folder, responder: other).last == nil)
        // Another program of the same key was ahead.
        let behind = try TimestampFile(folder: folder, responder: one)
        behind.store(early)
        // It isn't asked to store it again.
        #expect(behind.last == early)
        #expect(try TimestampFile(folder: folder, responder: one).last == late)
    }

    @Test(arguments: [
        "", "x", "00000000001795909211.000000007", "00000000001795909211,000000007\n",
        "0000000000179590921x.000000007\n", "99999999999999999999.000000000\n", "00000000001795909211.99999999x\n",
        "00009223372036854775.000000000\n",
    ])
    func whatIsNoTimestampCountsAsNone(_ text: String) throws {
        let folder = Self.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let key = StaticKeyPair.generate().publicKey
        _ = try TimestampFile(folder: folder, responder: key)
        let name = try #require(try FileManager.default.contentsOfDirectory(atPath: folder).first)
        try text.write(toFile: "\(folder)/\(name)", atomically: false, encoding: .utf8)
        let file = try TimestampFile(folder: folder, responder: key)
        #expect(file.last == nil)
        let now = TAI64N(unixSeconds: 1_795_909_211, nanoseconds: 0)
        file.store(now)
        #expect(try TimestampFile(folder: folder, responder: key).last == now)
    }

    @Test func whereNoFolderCanBeItIsSaid() {
        #expect(throws: TimestampFile.Failure.self) {
            try TimestampFile(folder: "/dev/null/timestamps", responder: StaticKeyPair.generate().publicKey)
        }
    }

    /// Sidecars come with new keys; other files in the folder are nobody's business.
    @Test func theOldestGo() throws {
        let folder = Self.folder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let first = StaticKeyPair.generate().publicKey
        _ = try TimestampFile(folder: folder, responder: first)
        try "".write(toFile: "\(folder)/notes", atomically: false, encoding: .utf8)
        for _ in 0..<300 { _ = try TimestampFile(folder: folder, responder: StaticKeyPair.generate().publicKey) }
        let names = try FileManager.default.contentsOfDirectory(atPath: folder)
        #expect(names.count <= 258 && names.contains("notes"))
    }
}
