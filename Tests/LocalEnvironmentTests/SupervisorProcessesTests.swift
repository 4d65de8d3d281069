import Environments
import HostSupport
import InterceptModel
import Libc
import TestSupport
import Testing

@testable import LocalEnvironment

/// A room with a compose file.
private struct Place {
    private let room: Room
    var folder: String { self.room.path }
    var file: String { self.folder + "/compose.yaml" }

    init(_ text: String = "services: {api: {command: sleep 1000}}") throws {
        self.room = try Room()
        try SmallFile.replace(self.room.path + "/compose.yaml", with: Array(text.utf8))
    }
}

@Suite struct SupervisorStarterTests {
    /// Instead of `kl supervise`.
    private func starter(_ file: String, _ script: String) -> SupervisorStarter {
        var starter = SupervisorStarter(file: file)
        starter.executable = "/bin/sh"
        starter.arguments = ["-c", script]
        starter.patienceMilliseconds = 60_000
        return starter
    }

    @Test func `it returns when the supervisor says that it is ready`() throws {
        let place = try Place()
        try self.starter(place.file, #"echo '{"ready":true}' >&3; echo said >&2"#).start()
        let log = "\(place.folder)/.kl/logs/supervisor.log"
        // What it says otherwise goes to its log.
        for _ in 0..<6_000 where try SmallFile.read(log)?.isEmpty != false { usleep(10_000) }
        #expect(try SmallFile.read(log) == Array("said\n".utf8))
    }

    @Test func `it throws what the supervisor says`() throws {
        let place = try Place()
        let starter = self.starter(place.file, #"echo '{"error":"port 1 is taken","code":"busy"}' >&3; exit 1"#)
        #expect(throws: Problem(.busy, "port 1 is taken")) { try starter.start() }
    }

    @Test(arguments: [
        ("exit 7", "exited with code 7"), ("kill -9 $$", "was ended by signal 9 (SIGKILL)"),
        ("echo nonsense >&3", "says what isn't understood"),
        ("exec sleep 100", "doesn't answer"),
    ])
    func `a supervisor that says nothing is an error that names its log`(script: String, part: String) throws {
        let place = try Place()
        var starter = self.starter(place.file, script)
        if part == "doesn't answer" { starter.patienceMilliseconds = 100 }
        let error = #expect(throws: Problem.self) { try starter.start() }
        #expect(error?.description.contains(part) == true)
        #expect(error?.description.contains("\(place.folder)/.kl/logs/supervisor.log") == true)
    }

    @Test func `it has a session of its own, and nothing that is meant for another`() throws {
        let place = try Place()
        let script = #"""
            test "$(cut -d' ' -f6 /proc/$$/stat)" = $$ || exit 3
            test -z "$KL_SUPERVISED$NOTIFY_SOCKET$LISTEN_FDS" || exit 4
            for number in 4 5 6 7 8 9; do test -e /proc/$$/fd/$number && exit 5; done
            echo '{"ready":true}' >&3
            """#
        try self.starter(place.file, script).start()
    }
}

@Suite(.serialized) struct SupervisorEndingTests {
    private func start(_ script: String, role: String, in folder: String) throws -> ProcessIdentity {
        var spawn = Spawn("/bin/sh", ["-c", script])
        spawn.environment[SupervisorMark.variable] = "\(folder):\(role)"
        let pid = try spawn.start()
        return try #require(ProcessIdentity(of: pid))
    }

    /// The test is its parent, and must not keep it as a zombie for others' eyes: /proc shows it as ended either way.
    private func reap(_ process: ProcessIdentity) { waitpid(process.pid, nil, 0) }

    @Test func `where nothing was ever up there is nothing to end`() throws {
        let place = try Place()
        #expect(try SupervisorEnding.down(file: place.file) { _ in } == false)
        _ = try StateFolder.make(besideFile: place.file)
        #expect(try SupervisorEnding.down(file: place.file) { _ in } == false)
    }

    @Test func `what a dead supervisor has left ends, named or only marked; other processes don't`() throws {
        let place = try Place()
        let folder = try StateFolder.make(besideFile: place.file)
        let named = try self.start("sleep 1000 & sleep 1000", role: "service:api", in: folder.path)
        let marked = try self.start("exec sleep 1000", role: "sidecar:api-1", in: folder.path)
        let other = try self.start("exec sleep 1000", role: "service:api", in: folder.path + "-other")
        defer {
            other.send(SIGKILL)
            self.reap(other)
        }
        // A number that another process has by now.
        var stranger = other
        stranger.startTime -= 1
        let port = Service.Port(published: 1, target: 2)
        let service = Service(name: "api", state: .running, ports: [port])
        var state = EnvironmentState(name: "a", file: place.file, supervisor: stranger, since: "", services: [])
        state.services = [
            .init(service: service, process: named), .init(service: service, process: stranger),
        ]
        try state.write(to: folder)
        try SmallFile.replace(folder.peers, with: [])

        #expect(try SupervisorEnding.down(file: place.file) { _ in })
        self.reap(named)
        self.reap(marked)
        #expect(SupervisorMark(folder: folder.path).processes().isEmpty)
        #expect(RunningProcesses.inGroup(named.pid).isEmpty)
        #expect(other.isAlive)
        #expect(try SmallFile.read(folder.state) == nil && SmallFile.read(folder.peers) == nil)
        #expect(try SupervisorEnding.down(file: place.file) { _ in } == false)
    }

    @Test func `one that hears nothing is ended all the same`() throws {
        let place = try Place("services: {api: {command: sleep 1000, stop_grace_period: 200ms}}")
        let folder = try StateFolder.make(besideFile: place.file)
        let deaf = try self.start("trap '' TERM; while :; do sleep 0.01; done", role: "service:api", in: folder.path)
        usleep(100_000)
        #expect(try SupervisorEnding.down(file: place.file) { _ in })
        self.reap(deaf)
        #expect(SupervisorMark(folder: folder.path).processes().isEmpty)
    }
}

@Suite struct LogFilesTests {
    @Test func `a large one is moved aside and goes on`() throws {
        let place = try Place()
        let path = place.folder + "/a.log"
        let descriptor = try LogFiles.open(path, mode: 0o600)
        defer { close(descriptor) }
        func append(_ text: String) { _ = write(descriptor, text, text.utf8.count) }
        append("0123456789")
        LogFiles.cutIfLarge(path, mode: 0o600, limit: 10)
        #expect(try SmallFile.read(path + ".1") == nil, "it isn't too large")
        append("abc")
        LogFiles.cutIfLarge(path, mode: 0o600, limit: 10)
        append("next")
        #expect(try SmallFile.read(path + ".1") == Array("3456789abc".utf8))
        #expect(try SmallFile.read(path) == Array("next".utf8))
    }

    @Test func `a folder that is a link by now isn't followed`() throws {
        let place = try Place()
        let (folder, other) = (place.folder + "/logs", place.folder + "/other")
        try SmallFile.makeFolder(other)
        try SmallFile.replace(other + "/a.log", with: Array("0123456789".utf8))
        #expect(symlink(other, folder) == 0)
        #expect(throws: HostError.self) { _ = try LogFiles.open(folder + "/a.log", mode: 0o600) }
        LogFiles.cutIfLarge(folder + "/a.log", mode: 0o600, limit: 1)
        #expect(try SmallFile.read(other + "/a.log") == Array("0123456789".utf8))
        LogFiles.cutIfLarge(folder + "/a.log", mode: 0o600, limit: 1, followsFolders: true)
        #expect(try SmallFile.read(other + "/a.log.1") == Array("9".utf8))
    }

    @Test func `what others put in its place is neither waited for nor cut`() throws {
        let place = try Place()
        let (pipe, link, other) = (place.folder + "/pipe.log", place.folder + "/link.log", place.folder + "/other")
        #expect(mkfifo(pipe, 0o600) == 0)
        #expect(throws: HostError.self) { _ = try LogFiles.open(pipe, mode: 0o600) }
        let reader = open(pipe, O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        #expect(throws: HostError.notAFile(pipe, "can't be written")) { _ = try LogFiles.open(pipe, mode: 0o600) }
        try SmallFile.replace(other, with: Array("0123456789".utf8))
        #expect(symlink(other, link) == 0)
        LogFiles.cutIfLarge(link, mode: 0o600, limit: 1)
        #expect(try SmallFile.read(other) == Array("0123456789".utf8))
        #expect(throws: HostError.self) { _ = try LogFiles.open(link, mode: 0o600) }
    }
}
