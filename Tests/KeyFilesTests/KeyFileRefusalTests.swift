import KeyFiles
import Libc
import Testing

@Suite struct KeyFileRefusalTests {
    private let key = KeyFileTests.privateKey
    private let room: Room

    init() throws {
        room = try Room()
    }

    private func expectRefusal(of path: String, _ reason: KeyFileError.Reason) {
        #expect(throws: KeyFileError(path: path, reason: reason)) { try KeyFile.readPrivateKey(at: path) }
    }

    @Test func `no file`() {
        expectRefusal(of: room("key"), .missing)
    }

    @Test func `a symbolic link, to a good key or to nowhere`() throws {
        try #require(symlink(try room.file("key", key), room("link")) == 0)
        expectRefusal(of: room("link"), .symbolicLink)
        try #require(symlink(room("nowhere"), room("dangling")) == 0)
        expectRefusal(of: room("dangling"), .symbolicLink)
    }

    @Test func `a hard link`() throws {
        let path = try room.file("key", key)
        try #require(link(path, room("other")) == 0)
        expectRefusal(of: path, .hardLinks(2))
        expectRefusal(of: room("other"), .hardLinks(2))
        try #require(unlink(room("other")) == 0)
        #expect(throws: Never.self) { try KeyFile.readPrivateKey(at: path) }
    }

    /// None of them may keep the caller waiting.
    @Test(.timeLimit(.minutes(1))) func `what is no regular file`() throws {
        try #require(mkdir(room("directory"), 0o700) == 0)
        expectRefusal(of: room("directory"), .notRegular(.directory))

        try #require(mkfifo(room("pipe"), 0o600) == 0)
        expectRefusal(of: room("pipe"), .notRegular(.fifo))

        // A pipe with a writer at its other end, and something in it.
        let reader = open(room("pipe"), O_RDONLY | O_NONBLOCK)
        let writer = open(room("pipe"), O_WRONLY | O_NONBLOCK)
        defer {
            close(reader)
            close(writer)
        }
        try #require(write(writer, key, key.utf8.count) == key.utf8.count)
        expectRefusal(of: room("pipe"), .notRegular(.fifo))

        expectRefusal(of: "/dev/null", .notRegular(.device))
        expectRefusal(of: "/dev/zero", .notRegular(.device))
    }

    @Test func `a socket`() throws {
        let listener = socket(AF_UNIX, SocketType.stream, 0)
        try #require(listener >= 0)
        defer { close(listener) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let path = room("socket")
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let bound = withUnsafeBytes(of: &address) { bytes in
            bytes.withMemoryRebound(to: sockaddr.self) { bind(listener, $0.baseAddress, socklen_t(bytes.count)) }
        }
        try #require(bound == 0)
        expectRefusal(of: path, .notRegular(.socket))
    }

    @Test(arguments: [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o440, 0o777] as [UInt32])
    func `a mode that lets others in`(mode: UInt32) throws {
        expectRefusal(of: try room.file("key", key, mode: mode), .looseMode(mode, .privateKey))
    }

    @Test(.enabled(if: geteuid() == 0, "only root can give files away")) func `another user's file`() throws {
        let path = try room.file("key", key)
        try #require(chown(path, 4_242, 0) == 0)
        expectRefusal(of: path, .foreignOwner(4_242))
    }

    @Test func `a text that is no key`() throws {
        let texts = [
            "",
            "\n",
            " " + key,
            "\n" + key,
            String(key.dropLast()),
            String(key.dropLast()) + "\n",
            key + "=",
            key + "x\n",
            key + "\u{0}",
            key.dropLast() + "\n=",
            "é" + key.dropFirst(2),
            String(repeating: "\n", count: 64),
        ]
        for text in texts {
            expectRefusal(of: try room.file("key", text), .notAKey(.privateKey))
        }
        let path = try room.file("psk", "nothing")
        #expect(throws: KeyFileError(path: path, reason: .notAKey(.presharedKey))) {
            try KeyFile.readPresharedKey(at: path)
        }
    }

    @Test(arguments: [65, 66, 89, 1 << 20]) func `more than a key can have`(count: Int) throws {
        let text = key + String(repeating: "\n", count: count - key.utf8.count)
        expectRefusal(of: try room.file("key", text), .tooLong(limit: 64, .privateKey))
    }

    @Test func `as long as a key can be`() throws {
        let text = key + String(repeating: "\n", count: 64 - key.utf8.count)
        let path = try room.file("key", text)
        #expect(throws: Never.self) { try KeyFile.readPrivateKey(at: path) }
    }

    @Test func `each says what is wrong and what to do, and names the file`() throws {
        let reasons: [KeyFileError.Reason] = [
            .missing, .alreadyExists, .symbolicLink, .notRegular(.fifo), .foreignOwner(7),
            .looseMode(0o640, .privateKey),
            .looseMode(0o4666, .peers), .hardLinks(3), .tooLong(limit: 64, .presharedKey), .notAKey(.privateKey),
            .notAKey(.presharedKey), .line(7, .notAPublicKey), .line(9, .tooManyKeys(limit: 1_024)),
            .system(SystemError(code: EACCES), during: .open),
        ]
        for reason in reasons {
            let text = "\(KeyFileError(path: "/etc/kl/key", reason: reason))"
            #expect(text.hasPrefix("'/etc/kl/key' "))
            #expect(text.hasSuffix("."))
            #expect(!text.contains("\n"))
        }
        #expect(
            "\(KeyFileError(path: "k", reason: .looseMode(0o640, .privateKey)))"
                == "'k' is open to other users (mode 0640). Close it with 'chmod 600', and make a new key if others could "
                + "have read this one."
        )
        #expect(
            "\(KeyFileError(path: "k", reason: .system(SystemError(code: EACCES), during: .open)))"
                == "'k' can't be opened: Permission denied. Check the path, and what this user may do there."
        )
    }
}
