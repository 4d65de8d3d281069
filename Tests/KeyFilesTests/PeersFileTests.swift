import CommandText
import InterceptModel
import Libc
import Noise
import Testing

@testable import KeyFiles

@Suite struct PeersFileTests {
    private let room: Room
    private let first = StaticKeyPair.generate().publicKey
    private let second = StaticKeyPair.generate().publicKey

    init() throws {
        room = try Room()
    }

    @Test func `keys, comments and blank lines`() throws {
        let text = """
            # who may come in
            \(first)

            \t \(second)  # ada's laptop: \u{e9}
              # \(StaticKeyPair.generate().publicKey)
            \(first)
            """
        let path = try room.file("peers", text, mode: 0o644)
        #expect(try PeersFile(contentsOf: path).keys == [first, second])
        let windows = try room.file("windows", "\(first)\r\n\r\n\(second)\r\n")
        #expect(try PeersFile(contentsOf: windows).keys == [first, second])
        #expect(try PeersFile(contentsOf: room.file("none", "\n\n")).keys == [])
        #expect(try PeersFile(contentsOf: room.file("empty", "")).keys == [])
    }

    @Test func `a line that is no key is named`() throws {
        let lines = [
            "x", "\(first),\(second)", "\(first)x", "may=mirror \(first)", "\(first)\u{b}may=mirror",
            "\(first.base64.dropLast())", "\(first)\u{0}", "\u{0}",
        ]
        for line in lines {
            let path = try room.file("peers", "# one\n\(second)\n\(line)\n\(first)\n")
            #expect(throws: KeyFileError(path: path, reason: .line(3, .notAPublicKey))) {
                try PeersFile(contentsOf: path)
            }
        }
        let path = try room.file("bytes", Bytes("\(first)".utf8.dropLast(2)) + [0xff, 0xfe])
        #expect(throws: KeyFileError(path: path, reason: .line(1, .notAPublicKey))) { try PeersFile(contentsOf: path) }
    }

    @Test func `what a key may do stands behind it`() throws {
        let text = """
            \(first) may=mirror ports=80,53/udp # a colleague
            \(second)\tlabel=ada@thinkpad until=2026-12-01T00:00:00Z
            \(first)   may=mirror   ports=53/udp,80
            """
        let peers = try PeersFile(contentsOf: room.file("peers", text)).peers
        #expect(peers.map(\.key) == [first, second])
        #expect(peers[0].admission.grant == Grant([.mirror], ports: [.init(80), .init(53, .udp)]))
        #expect(peers[1].admission.grant?.until == UTCTime(rfc3339: "2026-12-01T00:00:00Z"))
        #expect(peers[1].admission.label == "ada@thinkpad")
    }

    @Test func `rights that can't be read are none, and not all`() throws {
        for rest in [
            "may=", "may=everything", "ports=0", "until=tomorrow", "Mirror=80", "\(second)", "may=mirror may=refuse",
        ] {
            let path = try room.file("peers", "\(second)\n\(first) \(rest)\n")
            let error = #expect(throws: KeyFileError.self) { try PeersFile(contentsOf: path) }
            guard case .line(2, .notAnAdmission)? = error?.reason else {
                Issue.record("'\(rest)' was taken: \(String(describing: error))")
                continue
            }
        }
        let path = try room.file("twice", "\(first)\n\(first) may=mirror\n")
        #expect(throws: KeyFileError(path: path, reason: .line(2, .keyWithOtherRights))) {
            try PeersFile(contentsOf: path)
        }
    }

    @Test func `as many keys as there may be, and one more`() throws {
        let lines = (0...PeersFile.maximumKeyCount).map { _ in StaticKeyPair.generate().publicKey.base64 }
        let full = try room.file("full", lines.dropLast().joined(separator: "\n"))
        #expect(try PeersFile(contentsOf: full).keys.count == PeersFile.maximumKeyCount)
        let path = try room.file("more", lines.joined(separator: "\n"))
        let reason = KeyFileError.Reason.line(1_025, .tooManyKeys(limit: 1_024))
        #expect(throws: KeyFileError(path: path, reason: reason)) { try PeersFile(contentsOf: path) }
    }

    @Test func `as many bytes as there may be, and one more`() throws {
        let full = "\(first)\n".padding(to: PeersFile.maximumByteCount)
        #expect(try PeersFile(contentsOf: room.file("full", full)).keys == [first])
        let path = try room.file("more", full + "#")
        #expect(throws: KeyFileError(path: path, reason: .tooLong(limit: 65_536, .peers))) {
            try PeersFile(contentsOf: path)
        }
    }

    @Test(arguments: [0o664, 0o646, 0o666, 0o620, 0o602] as [UInt32]) func `others may not write it`(
        mode: UInt32
    ) throws {
        let path = try room.file("peers", "\(first)", mode: mode)
        #expect(throws: KeyFileError(path: path, reason: .looseMode(mode, .peers))) { try PeersFile(contentsOf: path) }
    }

    @Test(.enabled(if: geteuid() == 0, "only root can give files away")) func `another user's list is refused`() throws
    {
        let path = try room.file("peers", "\(first)")
        try #require(chown(path, 4_242, 0) == 0)
        #expect(throws: KeyFileError(path: path, reason: .foreignOwner(4_242))) { try PeersFile(contentsOf: path) }
    }

    @Test(.timeLimit(.minutes(1))) func `no file, a directory, a pipe`() throws {
        #expect(throws: KeyFileError(path: room("no"), reason: .missing)) { try PeersFile(contentsOf: room("no")) }
        #expect(throws: KeyFileError(path: room.path, reason: .notRegular(.directory))) {
            try PeersFile(contentsOf: room.path)
        }
        try #require(mkfifo(room("pipe"), 0o600) == 0)
        #expect(throws: KeyFileError(path: room("pipe"), reason: .notRegular(.fifo))) {
            try PeersFile(contentsOf: room("pipe"))
        }
    }

    /// As a cluster mounts configuration.
    @Test func `a link is followed, and the file at its end is what counts`() throws {
        let path = try room.file("peers", "\(first)")
        try #require(symlink(path, room("link")) == 0)
        #expect(try PeersFile(contentsOf: room("link")).keys == [first])
        try #require(chmod(path, 0o666) == 0)
        #expect(throws: KeyFileError(path: room("link"), reason: .looseMode(0o666, .peers))) {
            try PeersFile(contentsOf: room("link"))
        }
    }
}

extension String {
    fileprivate func padding(to count: Int) -> String {
        self + String(repeating: "#", count: count - utf8.count)
    }
}
