import ComposeFiles
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc
public import Logging
import NIOCore
import NIOPosix

/// The process of a local environment's supervisor, from its start to its end: `kl supervise`.
public enum SupervisorProcess {
    /// One line that the supervisor writes to descriptor 3, for its starter.
    struct Report: Codable, Equatable {
        var ready: Bool?
        var error: String?
        var code: Problem.Code?
    }

    static let reportDescriptor: CInt = 3

    /// - Parameters:
    ///   - file: the compose file.
    ///   - version: this program's version, for the log.
    public static func run(file: String, version: String, log: Logger) -> Never {
        // Block the signals before any thread starts, so that all threads inherit that; the main thread waits for them.
        let signals = Self.holdSignals()
        do throws(Problem) {
            try Self.supervise(file: file, version: version, signals: signals, log: log)
        } catch {
            log.error("\(error)")
            Self.report(Report(error: error.description, code: error.code))
            exit(1)
        }
    }

    private static func supervise(
        file path: String,
        version: String,
        signals: sigset_t,
        log: Logger
    ) throws(Problem) -> Never {
        let file = try ComposeFile.read(path: path)
        let folder = try StateFolder.make(besideFile: file.path)
        guard let lock = try Self.takeLock(of: folder) else {
            Self.report(Report(ready: true))
            exit(0)
        }
        // The environment's folders may be moved or unmounted while it runs.
        chdir("/")
        log.info("supervising \(file.path)", metadata: ["version": "\(version)", "pid": "\(getpid())"])
        for warning in file.warnings { log.warning("\(warning)") }

        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let eventLoop = group.next()
        let starting = Starting(file: file, folder: folder, sidecar: try Self.findSidecar(), log: log)
        let held = SharedLock(lock)
        let started: Result<NIOLoopBound<Supervisor>, Problem>
        do {
            started = try eventLoop.submit {
                Result { () throws(Problem) in
                    let supervisor = try starting.start(on: eventLoop)
                    supervisor.onEnd = {
                        // Release the lock before clients are told that all is done: one of them may bring the environment
                        // up again.
                        held.release()
                        eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(50)) { exit(0) }
                    }
                    return NIOLoopBound(supervisor, eventLoop: eventLoop)
                }
            }
            .wait()
        } catch {
            throw Problem(.failed, "\(error)")
        }
        let supervisor = try started.get()
        Self.report(Report(ready: true))
        var signals = signals
        while true {
            var number: CInt = 0
            guard sigwait(&signals, &number) == 0 else { continue }
            if number == SIGCHLD {
                eventLoop.execute { supervisor.value.context.watch.reap() }
            } else {
                eventLoop.execute { supervisor.value.end() }
            }
        }
    }

    private static func holdSignals() -> sigset_t {
        signal(SIGPIPE, SIG_IGN)
        signal(SIGHUP, SIG_IGN)
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGCHLD, SIGTERM, SIGINT] { sigaddset(&signals, number) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        // If SIGCHLD was inherited as ignored, ended children would leave no status to wait for.
        signal(SIGCHLD, SIG_DFL)
        return signals
    }

    /// Nil: another supervisor runs, and isn't ending.
    private static func takeLock(of folder: StateFolder) throws(Problem) -> FileLock? {
        // Wait for one that is ending, which gives its services their grace period.
        for _ in 0..<1_200 {
            do throws(HostError) {
                if let lock = try FileLock.tryToAcquire(folder.supervisorLock, mode: folder.fileMode) {
                    fchmod(lock.rawDescriptor, mode_t(folder.fileMode))
                    return lock
                }
            } catch {
                throw Problem(error)
            }
            if Self.isUp(folder) { return nil }
            usleep(50_000)
        }
        throw Problem(
            .failed,
            "\(folder.supervisorLock) is held by a process that doesn't answer",
            "Look which one hangs" + " (fuser '\(folder.supervisorLock)'), and end it."
        )
    }

    private static func isUp(_ folder: StateFolder) -> Bool {
        guard let client = try? JSONLinesClient(path: folder.supervisorSocket),
            (try? client.send(SupervisorRequest.refresh)) != nil,
            case .message(.refreshed)? = try? client.receive(SupervisorReply.self, within: 6_000)
        else { return false }
        return true
    }

    /// Beside this program, or else in PATH.
    private static func findSidecar() throws(Problem) -> String {
        let beside = SmallFile.parent(of: Spawn.ownExecutable) + "/kl-sidecar"
        if access(beside, X_OK) == 0 { return beside }
        if let found = Spawn.find("kl-sidecar", path: Spawn.ownEnvironment["PATH"]), found.hasPrefix("/") {
            return found
        }
        throw Problem(
            .failed,
            "kl-sidecar isn't beside kl, nor in PATH",
            "Install it there: both belong together."
        )
    }

    /// If the descriptor isn't open, there is no starter that waits for the report.
    private static func report(_ report: Report) {
        guard fcntl(Self.reportDescriptor, F_GETFD) >= 0, let data = try? JSONEncoder().encode(report) else { return }
        let bytes = Array(data) + [UInt8(ascii: "\n")]
        _ = write(Self.reportDescriptor, bytes, bytes.count)
        close(Self.reportDescriptor)
    }
}

/// The supervisor's lock, released on its event loop once everything has ended.
private final class SharedLock: Sendable {
    private let descriptor: CInt

    init(_ lock: consuming FileLock) {
        // Duplicate the descriptor: `lock` closes its own when it goes out of scope.
        self.descriptor = fcntl(lock.rawDescriptor, F_DUPFD_CLOEXEC, 3)
    }

    func release() { close(self.descriptor) }
}
