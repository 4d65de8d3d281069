import KeyFiles
import Libc
import Noise
import Testing

@Suite struct KeyFileTests {
    /// Made by `wg genkey` and `wg pubkey`.
    static let privateKey = "OECe78Lw5H9BlPg0zF/REaPf2vFlc98T65vDYxoZRm4="
    static let publicKey = "U/pa3IuU1Pzi5iP5pz013Ke/V3SA3oC3HFoIBYFtZj0="

    let room: Room

    init() throws {
        room = try Room()
    }

    @Test(arguments: ["", "\n", "\r\n", " \n\n\t"]) func `a key reads, whatever blanks are after it`(end: String) throws
    {
        let path = try room.file("key", Self.privateKey + end)
        #expect(try KeyFile.readPrivateKey(at: path).publicKey.base64 == Self.publicKey)
        let presharedKey = try KeyFile.readPresharedKey(at: path)
        #expect(
            presharedKey.base64Line().withBytes { $0.withUnsafeBytes { Bytes($0) } }
                == Bytes((Self.privateKey + "\n").utf8)
        )
    }

    @Test(arguments: [0o600, 0o400, 0o700] as [mode_t]) func `a key closed to others reads`(mode: mode_t) throws {
        let path = try room.file("key", Self.privateKey, mode: mode)
        #expect(try KeyFile.readPrivateKey(at: path).publicKey.base64 == Self.publicKey)
    }

    @Test func `what was written reads, and only its owner can`() throws {
        let pair = StaticKeyPair.generate()
        try KeyFile.write(pair, to: room("key"))
        #expect(try status(of: room("key")).st_mode & 0o7777 == 0o600)
        #expect(try status(of: room("key")).st_size == 45)
        #expect(try KeyFile.readPrivateKey(at: room("key")).publicKey == pair.publicKey)

        let presharedKey = PresharedKey.generate()
        try KeyFile.write(presharedKey, to: room("psk"))
        #expect(try status(of: room("psk")).st_mode & 0o7777 == 0o600)
        let line = presharedKey.base64Line().withBytes { $0.withUnsafeBytes { Bytes($0) } }
        #expect(try contents(of: room("psk")) == line)
    }

    @Test func `nothing is written over, not even through a link to nowhere`() throws {
        let path = try room.file("key", "mine")
        let pair = StaticKeyPair.generate()
        #expect(throws: KeyFileError(path: path, reason: .alreadyExists)) { try KeyFile.write(pair, to: path) }
        #expect(try contents(of: path) == Bytes("mine".utf8))

        try #require(symlink(room("elsewhere"), room("link")) == 0)
        #expect(throws: KeyFileError(path: room("link"), reason: .alreadyExists)) {
            try KeyFile.write(pair, to: room("link"))
        }
        #expect(room.names.sorted() == ["key", "link"])
    }

    @Test func `where nothing can be written, the error says so`() {
        let error = #expect(throws: KeyFileError.self) {
            try KeyFile.write(.generate() as StaticKeyPair, to: room("no such directory/key"))
        }
        #expect(error?.reason == .system(SystemError(code: ENOENT), during: .create))
    }
}
