import HostSupport
import Libc
import Synchronization
import Testing

struct ProcessEndWatchTests {
    /// A process that does nothing until it is killed.
    private func idler() -> pid_t {
        var process: pid_t = 0
        var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("1000"), nil]
        defer { for argument in arguments { free(argument) } }
        #expect(posix_spawnp(&process, "sleep", nil, nil, &arguments, environ) == 0)
        return process
    }

    private func eventually(_ check: () -> Bool) async throws -> Bool {
        for _ in 0..<1_000 {
            if check() { return true }
            try await Task.sleep(for: .milliseconds(10))
        }
        return false
    }

    @Test func eachEndIsToldOnce() async throws {
        let processes = (0..<5).map { _ in self.idler() }
        let ended = Mutex<[pid_t]>([])
        let watches = processes.map { process in
            ProcessEndWatch(of: process, isMeant: { true }, onEnd: { ended.withLock { $0.append(process) } })
        }
        #expect(watches.allSatisfy { $0 != nil })
        for process in processes.shuffled() {
            let before = ended.withLock { $0 }
            #expect(!before.contains(process))
            kill(process, SIGKILL)
            #expect(try await self.eventually { ended.withLock { $0 } == before + [process] })
        }
        for process in processes { waitpid(process, nil, 0) }
        withExtendedLifetime(watches) {}
        #expect(ended.withLock { $0.count } == processes.count)
    }

    @Test func nobodyIsToldWhoHasLeft() async throws {
        let (one, other) = (self.idler(), self.idler())
        let ended = Mutex<[pid_t]>([])
        var left = ProcessEndWatch(of: one, isMeant: { true }, onEnd: { ended.withLock { $0.append(one) } })
        #expect(left != nil)
        left = nil
        let kept = ProcessEndWatch(of: other, isMeant: { true }, onEnd: { ended.withLock { $0.append(other) } })
        for process in [one, other] { kill(process, SIGKILL) }
        #expect(try await self.eventually { ended.withLock { $0 } == [other] })
        for process in [one, other] { waitpid(process, nil, 0) }
        withExtendedLifetime(kept) {}
    }

    @Test func whatIsNotThereOrNotMeantIsNotWatched() {
        let process = self.idler()
        #expect(ProcessEndWatch(of: process, isMeant: { false }, onEnd: {}) == nil)
        kill(process, SIGKILL)
        waitpid(process, nil, 0)
        #expect(ProcessEndWatch(of: process, isMeant: { true }, onEnd: {}) == nil)
        for odd in [0, -1, .max] as [Int32] {
            #expect(ProcessEndWatch(of: odd, isMeant: { true }, onEnd: {}) == nil)
        }
    }
}
