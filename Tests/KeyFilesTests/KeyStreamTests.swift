import KeyFiles
import Libc
import Noise
import Testing

@Suite struct KeyStreamTests {
    /// Reads a key out of a pipe in which `chunks` lie, written one by one.
    private func read(_ chunks: [String]) throws -> Result<StaticKeyPair, KeyStream.Failure> {
        var ends: [CInt] = [-1, -1]
        try #require(pipe(&ends) == 0)
        defer { close(ends[0]) }
        for chunk in chunks { try #require(write(ends[1], chunk, chunk.utf8.count) == chunk.utf8.count) }
        close(ends[1])
        return Result { () throws(KeyStream.Failure) in try KeyStream.readPrivateKey(from: ends[0]) }
    }

    @Test func `a key comes in, in one piece or in many`() throws {
        let text = KeyFileTests.privateKey
        for chunks in [[text], [text + "\n"], text.map { "\($0)" }, [text, "\n"]] {
            #expect(try read(chunks).get().publicKey.base64 == KeyFileTests.publicKey)
        }
    }

    @Test func `what is no key is told so`() throws {
        let text = KeyFileTests.privateKey
        for chunks in [[], [""], ["abc"], [text, text], [text + "\n" + text], [String(repeating: "A", count: 50_000)]] {
            let failure = #expect(throws: KeyStream.Failure.self) { try read(chunks).get() }
            #expect(failure == .notAPrivateKey)
        }
    }

    @Test func `a stream that isn't one`() {
        #expect(throws: KeyStream.Failure.unreadable(SystemError(code: EBADF))) {
            try KeyStream.readPrivateKey(from: -1)
        }
        let line = Bytes("x\n".utf8)
        #expect(throws: KeyStream.Failure.unwritable(SystemError(code: EBADF))) {
            try KeyStream.write(line.span.bytes, to: -1)
        }
    }

    /// Whoever shares standard input may have made it non-blocking; the key is waited for all the same.
    @Test func `a non-blocking stream is waited for`() async throws {
        var ends: [CInt] = [-1, -1]
        try #require(pipe(&ends) == 0)
        let (reader, writer) = (ends[0], ends[1])
        defer { close(reader) }
        try #require(fcntl(reader, F_SETFL, O_NONBLOCK) == 0)
        let writing = Task {
            try await Task.sleep(for: .milliseconds(20))
            let text = KeyFileTests.privateKey
            _ = write(writer, text, text.utf8.count)
            close(writer)
        }
        #expect(try KeyStream.readPrivateKey(from: reader).publicKey.base64 == KeyFileTests.publicKey)
        try await writing.value
    }

    @Test func `a file that others can read is noticed`() throws {
        let room = try Room()
        for (mode, isOpen) in [(0o600, false), (0o644, true), (0o640, true), (0o400, false)] as [(mode_t, Bool)] {
            let descriptor = open(try room.file("out", "", mode: mode), O_RDONLY)
            try #require(descriptor >= 0)
            defer { close(descriptor) }
            #expect(KeyStream.isOpenToOthers(descriptor) == isOpen)
        }
        let null = open("/dev/null", O_WRONLY)
        defer { close(null) }
        #expect(!KeyStream.isOpenToOthers(null))
    }
}
