import Libc
import NIOCore
import NIOPosix
import Testing

@testable import HostSupport

struct FilterProcessTests {
    private let eventLoop = MultiThreadedEventLoopGroup.singleton.next()

    /// Starts it, waits until its output has ended, and ends it.
    private func run(_ words: [String], input: String = "") async throws -> (output: String, FilterProcess.Ending) {
        let eventLoop = self.eventLoop
        let started = try await eventLoop.submit {
            let (process, socket) = try FilterProcess.start(words, on: eventLoop)
            return (NIOLoopBound(process, eventLoop: eventLoop), socket)
        }.get()
        let (process, socket) = started
        _ = write(socket, input, input.utf8.count)
        shutdown(socket, CInt(SHUT_WR))
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while case let count = read(socket, &buffer, buffer.count), count > 0 { output += buffer[..<count] }
        close(socket)
        let promise = eventLoop.makePromise(of: FilterProcess.Ending.self)
        eventLoop.execute { process.value.end(after: .milliseconds(500)) { promise.succeed($0) } }
        return (String(decoding: output, as: UTF8.self), try await promise.futureResult.get())
    }

    @Test func whatGoesInComesOut() async throws {
        let (output, ending) = try await self.run(["cat"], input: "hello")
        #expect(output == "hello")
        #expect(ending.reason == "ended with code 0")
    }

    @Test func theLastLineOfItsErrorsIsTold() async throws {
        let script = "echo one >&2; printf 'No such \\033[2Jcontainer: x\\n\\n' >&2; exit 3"
        let (_, ending) = try await self.run(["sh", "-c", script])
        #expect(ending.reason == "ended with code 3: No such [2Jcontainer: x")
    }

    /// What kubectl exec prints when the program in the container fails, and when it can't be started.
    @Test(arguments: [
        (
            "kl-sidecar: no sidecar runs in this network namespace.\ncommand terminated with exit code 1\n",
            "kl-sidecar: no sidecar runs in this network namespace."
        ),
        ("command terminated with exit code 1\n", "command terminated with exit code 1"),
        (
            "error: unable to upgrade connection: container not found (\"kl\")\n",
            "error: unable to upgrade connection: container not found (\"kl\")"
        ),
    ])
    func `kubectl's own last line isn't the reason`(said: String, reason: String) async throws {
        let (_, ending) = try await self.run(["sh", "-c", "printf %s \"$0\" >&2; exit 1", said])
        #expect(ending.lastLine == reason)
    }

    @Test func aFloodOfErrorsIsBounded() async throws {
        let script = "head -c 3000000 /dev/zero | tr '\\0' 'e' >&2; echo >&2; echo the last >&2"
        let (_, ending) = try await self.run(["sh", "-c", script])
        #expect(ending.lastLine == "the last")
    }

    @Test func whatDoesNotListenIsKilledWithItsGroup() async throws {
        let eventLoop = self.eventLoop
        let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; exec 2>&-; while :; do sleep 1; done'"
        let started = try await eventLoop.submit {
            let (process, socket) = try FilterProcess.start(["sh", "-c", script], on: eventLoop)
            return (NIOLoopBound(process, eventLoop: eventLoop), socket)
        }.get()
        let (process, socket) = started
        var buffer = [UInt8](repeating: 0, count: 64)
        let count = read(socket, &buffer, buffer.count)
        let inner = try #require(Int32(String(decoding: buffer[..<max(0, count)], as: UTF8.self).visibleText))
        let promise = eventLoop.makePromise(of: FilterProcess.Ending.self)
        eventLoop.execute { process.value.end { promise.succeed($0) } }
        #expect(try await promise.futureResult.get().end == .killed(by: SIGKILL))
        close(socket)
        for _ in 0..<6_000 where ProcessIdentity(of: inner) != nil { usleep(10_000) }
        #expect(ProcessIdentity(of: inner) == nil)
    }

    @Test func whatLeavesOthersBehindEnds() async throws {
        // The sleeping one holds the socket: only the shell's own end tells.
        let (_, ending) = try await self.run(["sh", "-c", "sleep 1000 & exit 4"])
        #expect(ending.end == .exited(4))
    }

    @Test func aProgramThatIsNotThereIsNamed() {
        var error = #expect(throws: HostError.self) { try FilterProcess.program(["kl-no-such", "x"]) }
        #expect(error?.description == "'kl-no-such' isn't in any folder of PATH")
        error = #expect(throws: HostError.self) { try FilterProcess.program(["/etc/passwd"]) }
        #expect(error?.description == "'/etc/passwd' can't be run")
        #expect(throws: HostError.self) { try FilterProcess.program([]) }
    }
}
