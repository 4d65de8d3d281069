import CommandText
import Environments
import HostSupport
import Libc
import NIOCore
import Noise
import Testing

@testable import ComposeFiles
@testable import LocalEnvironment

@Suite struct BackoffTests {
    @Test func `longer and longer, and no longer than the last`() {
        var backoff = Backoff.ofSidecar
        #expect(
            (0..<9).map { _ in backoff.next(afterLifeOf: 0) } == [0, 100, 200, 500, 1_000, 2_000, 5_000, 5_000, 5_000]
        )
        backoff = .ofService
        #expect(
            (0..<8).map { _ in backoff.next(afterLifeOf: 0) } == [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 10_000]
        )
    }

    @Test func `who has lived for 10 s begins anew`() {
        var backoff = Backoff.ofService
        for _ in 0..<5 { _ = backoff.next(afterLifeOf: 9_999) }
        #expect(backoff.next(afterLifeOf: 9_999) == 5_000)
        #expect(backoff.next(afterLifeOf: 10_000) == 100)
        #expect(backoff.next(afterLifeOf: 0) == 200)
    }
}

@Suite struct ProcessEndTests {
    @Test(
        arguments: [
            (0x0000, ProcessEnd.exited(0), "exited with code 0"), (0x0300, .exited(3), "exited with code 3"),
            (0xFF00, .exited(255), "exited with code 255"), (9, .killed(by: 9), "was ended by signal 9 (SIGKILL)"),
            (0x80 | 11, .killed(by: 11), "was ended by signal 11 (SIGSEGV)"),
            (34, .killed(by: 34), "was ended by signal 34"),
        ] as [(Int32, ProcessEnd, String)]
    )
    func `as wait(2) says it`(status: Int32, end: ProcessEnd, reason: String) {
        #expect(ProcessEnd(status: status) == end)
        #expect(ProcessEnd(status: status).reason == reason)
    }
}

/// `kl env up` waits until nothing more will happen by itself.
@Suite struct SettlingTests {
    static let process = ProcessIdentity(of: getpid())

    @Test(
        arguments: [
            // It listens on none of its ports yet, but may soon.
            (.starting, Self.process, nil, false),
            (.starting, Self.process, "python3 (pid 4711)", true),
            // It waits for another service.
            (.starting, nil, nil, true),
            (.running, Self.process, nil, true), (.restarting, nil, nil, true), (.stopped, nil, nil, true),
        ] as [(Service.State, ProcessIdentity?, String?, Bool)]
    )
    func `settled is what waiting doesn't change`(
        state: Service.State,
        process: ProcessIdentity?,
        stranger: String?,
        isSettled: Bool
    ) throws {
        var service = EnvironmentState.ServiceState(service: Service(name: "api", state: state, ports: []))
        service.process = process
        service.stranger = stranger
        let supervisor = try #require(Self.process)
        let environment = EnvironmentState(name: "", file: "", supervisor: supervisor, since: "", services: [service])
        #expect(environment.isSettled == isSettled)
    }
}

@Suite struct ServiceLifeTests {
    /// It is read from a file that a whole group may write.
    @Test(arguments: [(Int.max, 1_000_000_000), (1_000_000_000, 1_000_000_000), (Int.min, 1), (3, 4)])
    func `any number of restarts goes on`(before: Int, after: Int) {
        var life = ServiceLife(policy: .always)
        life.goesOn(restarts: before)
        _ = life.ended(.exited(1), afterLifeOf: 0)
        #expect(life.restarts == after)
    }

    @Test func `it runs once it listens on all of its ports`() {
        var life = ServiceLife(policy: .always)
        #expect(life.state == .starting)
        life.waits(for: "db")
        #expect(life.phase == .waiting(for: "db") && life.reason == "waits for db")
        life.started(awaiting: [80, 443])
        #expect(life.state == .starting && life.reason == "doesn't listen on 80, 443 yet" && !life.hasRun)
        life.listens(allBut: [443])
        #expect(life.reason == "doesn't listen on 443 yet")
        life.listens(allBut: [])
        #expect(life.state == .running && life.reason == nil && life.hasRun)
    }

    @Test func `a port that another program has isn't its own`() {
        var life = ServiceLife(policy: .always)
        life.started(awaiting: [80, 443])
        life.listens(allBut: [80, 443], heldBy: "python3 (pid 4711)")
        #expect(life.state == .starting && life.reason == "its port 80 is held by python3 (pid 4711)" && !life.hasRun)
        #expect(life.stranger == "python3 (pid 4711)")
        life.listens(allBut: [443])
        #expect(life.reason == "doesn't listen on 443 yet" && life.stranger == nil)
    }

    @Test func `one without ports runs at once`() {
        var life = ServiceLife(policy: .always)
        life.started(awaiting: [])
        #expect(life.state == .running)
    }

    @Test func `it is started again, and what it has been isn't forgotten`() {
        var life = ServiceLife(policy: .always)
        life.started(awaiting: [])
        #expect(life.ended(.exited(0), afterLifeOf: 50) == .restart(after: 100))
        #expect(life.state == .restarting && life.reason == "exited with code 0" && life.restarts == 1 && life.hasRun)
        life.started(awaiting: [80])
        #expect(life.ended(.killed(by: 9), afterLifeOf: 50) == .restart(after: 200))
        #expect(life.restarts == 2)
    }

    @Test(
        arguments: [
            (.no, .exited(0), false), (.no, .exited(1), false), (.onFailure, .exited(0), false),
            (.onFailure, .exited(1), true),
            (.onFailure, .killed(by: 15), true), (.onFailure, .unknown, true), (.unlessStopped, .exited(0), true),
            (.always, .unknown, true),
        ] as [(ComposeService.RestartPolicy, ProcessEnd, Bool)]
    )
    func `as its policy says`(policy: ComposeService.RestartPolicy, end: ProcessEnd, isStartedAgain: Bool) {
        var life = ServiceLife(policy: policy)
        life.started(awaiting: [])
        let action = life.ended(end, afterLifeOf: 0)
        #expect(action == (isStartedAgain ? .restart(after: 100) : .leave))
        #expect(life.state == (isStartedAgain ? .restarting : .stopped))
    }

    @Test func `what can't be started is tried again, unless it is to run once`() {
        var life = ServiceLife(policy: .onFailure)
        #expect(life.couldNotStart("its command 'a' isn't found") == .restart(after: 100))
        #expect(life.reason == "its command 'a' isn't found")
        life = ServiceLife(policy: .no)
        #expect(life.couldNotStart("") == .leave)
    }

    @Test func `what listens when it has ended changes nothing`() {
        var life = ServiceLife(policy: .always)
        life.started(awaiting: [80])
        _ = life.ended(.exited(1), afterLifeOf: 0)
        life.listens(allBut: [])
        #expect(life.state == .restarting && !life.hasRun)
    }
}

@Suite struct EndingOrderTests {
    @Test func `dependents first, and those that don't know each other at once`() {
        var order = EndingOrder([
            ("db", []), ("cache", []), ("api", ["db", "cache"]), ("front", ["api"]), ("mail", []),
        ])
        #expect(Set(order.next()) == ["front", "mail"])
        #expect(order.next() == [])
        order.ended("mail")
        #expect(order.next() == [])
        order.ended("front")
        #expect(order.next() == ["api"])
        order.ended("api")
        #expect(Set(order.next()) == ["db", "cache"])
        order.ended("db")
        #expect(!order.isDone)
        order.ended("cache")
        #expect(order.isDone)
    }

    @Test func `a circle ends too`() {
        var order = EndingOrder([("a", ["b"]), ("b", ["a"])])
        #expect(Set(order.next()) == ["a", "b"])
    }

    @Test func `nothing is done`() { #expect(EndingOrder([]).isDone) }
}

@Suite struct ReloadTests {
    @Test func `it has read them once it has begun after it was asked, and is ready again`() {
        var reload = Reload()
        reload.started(generation: 1)
        #expect(!reload.ready(wanted: 1) && reload.ready(wanted: 2))
        reload.asked(generation: 2, at: 100)
        #expect(!reload.ready(wanted: 2), "asked already")
        reload.done()
        #expect(reload.generation == 1, "it hasn't said that it reads")
        reload.begins(at: 99)
        reload.done()
        #expect(reload.generation == 1, "that was an earlier one")
        reload.begins(at: 100)
        reload.done()
        #expect(reload.generation == 2 && !reload.ready(wanted: 2))
    }

    @Test func `asked for a newer one while it reads, it must read again`() {
        var reload = Reload()
        reload.asked(generation: 1, at: 100)
        reload.begins(at: 110)
        reload.asked(generation: 2, at: 120)
        reload.done()
        #expect(reload.generation == 0)
        reload.begins(at: 121)
        reload.done()
        #expect(reload.generation == 2)
    }
}

@Suite struct PeersTextTests {
    private func key(_ number: Int) -> String {
        let hex = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef")
        return String([hex[number / 1_024 % 32], hex[number / 32 % 32], hex[number % 32], "A"])
            + String(repeating: "A", count: 39) + "="
    }

    @Test func `a key a line, each once, with its newest label`() {
        let text = PeersText.make([
            Member(label: "old", publicKey: key(1)), Member(label: "bob", publicKey: key(2)),
            Member(label: "ada\n\(key(3))", publicKey: key(1)), Member(label: "none", publicKey: "no key"),
        ])
        #expect(text == "\(key(2)) # bob\n\(key(1)) # ada\(key(3))\n")
    }

    @Test func `what rights has behind a key`() throws {
        let first = try #require(PublicKey(base64: key(1)))
        let line = "\(key(1)) may=mirror ports=53/udp,80 until=2026-12-01T00:00:00Z"
        let members = [Member(label: "ada", publicKey: key(1)), Member(label: "bob", publicKey: key(2))]
        let text = PeersText.make(members, [first: try Admission(line: line)])
        #expect(text == "\(line) # ada\n\(key(2)) # bob\n")
        // Comments are left out where they don't fit, and what a key may do is not.
        let many = (3..<1_500).map { Member(label: String(repeating: "ä", count: 300), publicKey: key($0)) }
        let long = PeersText.make(many + members, [first: try Admission(line: line)])
        #expect(long.utf8.count <= 65_536 && long.hasSuffix("\n\(line)\n\(key(2))\n"))
    }

    @Test func `never more than a sidecar reads`() {
        let members = (0..<2_000).map { Member(label: String(repeating: "ä", count: 300), publicKey: key($0)) }
        let text = PeersText.make(members)
        #expect(text.split(separator: "\n").count == 1_024)
        #expect(text.utf8.count <= 65_536)
        #expect(text.contains(key(1_999)) && !text.contains(key(0)))
    }
}

@Suite struct PortProbeTests {
    @Test func `often at first`() {
        #expect(PortProbe.pause(after: .zero) == 50)
        #expect(PortProbe.pause(after: .milliseconds(2_999)) == 50)
        #expect(PortProbe.pause(after: .seconds(3)) == 200)
        #expect(PortProbe.pause(after: .seconds(600)) == 1_000)
    }
}

@Suite struct PortStrangerTests {
    @Test func `what was there before is nobody's of the service`() throws {
        let socket = try ListeningSocket(host: "127.0.0.1", port: 0)
        let before = PortStranger.listening(on: [socket.port])
        #expect(before[socket.port]?.count == 1)
        let found = PortStranger(before: before, group: 1, mark: "/nowhere:service:api").find(on: socket.port)
        #expect(found?.hasSuffix("(pid \(getpid()))") == true)
    }

    @Test func `what comes later and is seen to be another's isn't either`() throws {
        let socket = try ListeningSocket(host: "::1", port: 0)
        let found = PortStranger(before: [:], group: 1, mark: "/nowhere:service:api").find(on: socket.port)
        #expect(found?.hasSuffix("(pid \(getpid()))") == true)
    }

    @Test func `a socket of the service's group is the service's`() throws {
        let socket = try ListeningSocket(host: "127.0.0.1", port: 0)
        #expect(PortStranger(before: [:], group: getpid(), mark: "").find(on: socket.port) == nil)
        #expect(PortStranger(before: [:], group: getpgrp(), mark: "").find(on: socket.port) == nil)
    }

    @Test func `where nobody listens there is no stranger`() throws {
        let port = try ListeningSocket(host: "127.0.0.1", port: 0).port
        #expect(PortStranger.listening(on: [port]).isEmpty)
        #expect(PortStranger(before: [:], group: 1, mark: "").find(on: port) == nil)
    }
}

@Suite struct PortOwnerTests {
    @Test func `a line of the kernel's table`() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0"
        #expect(PortOwner.inode(in: line, listeningOn: 8_080) == "4711")
        #expect(PortOwner.inode(in: line, listeningOn: 8_081) == nil)
        #expect(PortOwner.inode(in: line.replacing(" 0A ", with: " 01 "), listeningOn: 8_080) == nil, "connected")
        #expect(PortOwner.inode(in: "", listeningOn: 8_080) == nil)
        #expect(PortOwner.inode(in: "a b c d e f g h i j", listeningOn: 8_080) == nil)
    }

    @Test func `this process, by a port of its own`() throws {
        let socket = try ListeningSocket(host: "127.0.0.1", port: 0)
        #expect(PortOwner.describe(socket.port)?.hasSuffix("(pid \(getpid()))") == true)
    }
}

@Suite struct CleanupTests {
    @Test(
        arguments: [
            ("state.json.4711.123", 4_711), ("peers.1.0", 1), ("record.json.7.4294967295", 7), ("state.json", nil),
            ("state.json.4711", nil), ("lock.1.2", nil), ("state.json.x.1", nil), ("state.json.0.1", nil),
            ("state.json.-1.1", nil), ("a.state.json.1.1", nil), (".1.1", nil), ("notify.1.", nil),
        ] as [(String, Int32?)]
    )
    func `whose half-written file it is`(name: String, pid: Int32?) {
        #expect(Cleanup.writer(ofHalfWritten: name) == pid)
    }
}
