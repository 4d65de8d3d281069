import Libc
import Testing

@testable import HostSupport

/// A folder of one test, gone afterwards.
final class Scratch {
    let path: String

    init() throws {
        var template = Array("/tmp/kl-host-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw HostError("no folder", code: errno) }
        self.path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        let path = self.path
        if let pid = try? Spawn("/bin/rm", ["-rf", path]).start() { waitpid(pid, nil, 0) }
    }
}

func exitCode(of spawn: Spawn) throws -> CInt {
    var status: CInt = 0
    let pid = try spawn.start()
    while waitpid(pid, &status, 0) < 0, errno == EINTR {}
    return (status >> 8) & 0xff
}

struct SmallFileTests {
    @Test func whatIsReplacedIsWhole() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/state"
        #expect(try SmallFile.read(path) == nil)
        try SmallFile.replace(path, with: Array("one".utf8), mode: 0o640)
        try SmallFile.replace(path, with: Array("two".utf8), mode: 0o600)
        #expect(try SmallFile.read(path) == Array("two".utf8))
        var status = stat()
        #expect(stat(path, &status) == 0)
        #expect(status.st_mode & 0o7777 == 0o600)
    }

    @Test func aFileThatIsTooLargeIsRefused() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/large"
        try SmallFile.replace(path, with: [UInt8](repeating: 0, count: 200_000))
        #expect(throws: HostError.self) { try SmallFile.read(path, atMost: 100_000) }
    }

    @Test func aPipeIsNotWaitedFor() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/pipe"
        #expect(mkfifo(path, 0o600) == 0)
        let refusal = #expect(throws: HostError.self) { try SmallFile.read(path) }
        #expect(refusal?.description == "\(path) can't be read: it isn't a file")
        #expect(throws: HostError.self) { try SmallFile.read(scratch.path) }
    }

    @Test func foldersAreMadeWithThoseAboveThem() throws {
        let scratch = try Scratch()
        try SmallFile.makeFolder(scratch.path + "/a/b/c")
        try SmallFile.makeFolder(scratch.path + "/a/b/c")
        #expect(access(scratch.path + "/a/b/c", F_OK) == 0)
        try SmallFile.replace(scratch.path + "/file", with: [])
        #expect(throws: HostError.self) { try SmallFile.makeFolder(scratch.path + "/file/c") }
    }

    @Test(arguments: [("/a/b", "/a"), ("/a", "/"), ("a", "."), ("a/b", "a")])
    func parents(_ path: String, _ parent: String) { #expect(SmallFile.parent(of: path) == parent) }
}

struct FileLockTests {
    private static func isFree(_ path: String) throws -> Bool {
        switch try FileLock.tryToAcquire(path) {
        case .some: true
        case .none: false
        }
    }

    /// Programs that other tests start have a copy of each descriptor until they are themselves.
    private static func becomesFree(_ path: String) throws -> Bool {
        for _ in 0..<1_000 {
            if try self.isFree(path) { return true }
            usleep(10_000)
        }
        return false
    }

    @Test func oneHoldsIt() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/lock"
        do {
            let first = try FileLock.acquire(path)
            #expect(try !Self.isFree(path))
            withExtendedLifetime(first) {}
        }
        #expect(try Self.becomesFree(path))
    }

    @Test func aChildKeepsIt() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/lock"
        var child: pid_t = 0
        do {
            let lock = try FileLock.acquire(path)
            var spawn = Spawn("/bin/sleep", ["1000"])
            spawn.descriptors = [nil, nil, nil, lock.rawDescriptor]
            child = try spawn.start()
        }
        #expect(try !Self.isFree(path))
        kill(child, SIGKILL)
        waitpid(child, nil, 0)
        #expect(try Self.becomesFree(path))
    }
}

struct ProcessTests {
    @Test func anEndedProcessIsNotAlive() throws {
        let own = try #require(ProcessIdentity.own)
        #expect(own.isAlive)
        #expect(ProcessIdentity(of: 0) == nil)
        #expect(ProcessIdentity(of: -1) == nil)
        let pid = try Spawn("/bin/sleep", ["1000"]).start()
        let identity = try #require(ProcessIdentity(of: pid))
        #expect(identity.isAlive)
        identity.send(SIGKILL)
        // As a zombie it is over too.
        while identity.isAlive { usleep(1_000) }
        waitpid(pid, nil, 0)
        #expect(!identity.isAlive)
    }

    @Test func aNumberThatIsAnothersIsNotTheSame() throws {
        var other = try #require(ProcessIdentity.own)
        other.startTime += 1
        #expect(!other.isAlive)
    }

    @Test func aChildHasWhatItIsGivenAndNothingElse() throws {
        let scratch = try Scratch()
        var ends: [CInt] = [-1, -1]
        #expect(pipe(&ends) == 0)
        let text = """
            pwd; echo "$ONLY"; echo "$HOME"
            for number in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e /proc/self/fd/$number ] && printf '%s ' $number; done
            """
        var spawn = Spawn("/bin/sh", ["-c", text], environment: ["ONLY": "this"])
        spawn.workingDirectory = scratch.path
        spawn.descriptors = [nil, ends[1], nil, ends[1]]
        _ = try exitCode(of: spawn)
        close(ends[1])
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = read(ends[0], &bytes, bytes.count)
        close(ends[0])
        let said = String(decoding: bytes[..<max(0, count)], as: UTF8.self)
        #expect(said == "\(scratch.path)\nthis\n\n0 1 2 3 ")
    }

    @Test func whatIsNotThereCannotBeStarted() {
        #expect(throws: HostError.self) { try Spawn("/no/such/program", []).start() }
    }

    @Test func programsAreFoundAsAShellFindsThem() {
        #expect(Spawn.find("sh", path: "/no/such:/bin") == "/bin/sh")
        #expect(Spawn.find("/bin/sh", path: nil) == "/bin/sh")
        #expect(Spawn.find("bin/sh", path: nil, in: "/") == "//bin/sh")
        #expect(Spawn.find("no-such-program", path: "/bin") == nil)
        // A folder isn't a program, though it may be entered.
        #expect(Spawn.find("local", path: "/usr") == nil)
    }
}
