public import HostSupport
public import InterceptModel
import Libc

/// Connects to this workspace's daemon, and starts one if none runs.
///
/// ```
///   connect ── it is accepted ──▶ hello ── our version ──▶ done
///      ▲              │              ├── none for 5 s ──▶ SilentDaemon
///      ▲              │              └── another ──▶ handOver, and again ─────┐
///      │           nobody listens                                             │
///      │              ▼                                                       │
///      ├── held ◀── daemon.lock ── ours ──▶ spawn, wait for its ready byte ───┤
///      └──────────────────────────────────────────────────────────────────────┘
/// ```
///
/// The process that starts the daemon takes the lock, and passes its descriptor on to the daemon, which holds the lock from
/// then on. If the lock is held and no process listens, a daemon is about to listen or to end; so connecting is tried
/// again.
public struct DaemonStarter: Sendable {
    public var home: WorkspaceHome
    public var version: String
    /// The program whose hidden command `daemon` runs the daemon.
    public var executable: String

    private static let giveUpAfter: Int64 = 15_000
    private static let readyWithin: CInt = 10_000
    private static let helloWithin = 5_000
    /// In milliseconds. A daemon that hands over its intercepts lets short connections end first.
    private static let handOverWithin = 10_000
    private static let pause: UInt32 = 20_000

    public init(
        home: WorkspaceHome,
        version: String = Version.number,
        executable: String = Spawn.ownExecutable
    ) {
        self.home = home
        self.version = version
        self.executable = executable
    }

    /// Returns a connection to a daemon of this version that has said hello. The daemon ends by itself some time after its
    /// last intercept.
    public static func connect(home: WorkspaceHome) throws -> JSONLinesClient {
        try DaemonStarter(home: home).connect()
    }

    /// A running daemon of any version that has said hello; nil: none runs.
    ///
    /// - Parameter milliseconds: how long to wait before the daemon counts as a `SilentDaemon`.
    public static func running(
        home: WorkspaceHome,
        within milliseconds: Int
    ) throws -> (client: JSONLinesClient, version: String)? {
        let until = Steady.milliseconds + Int64(milliseconds)
        while let client = try SilentDaemon.client(home, within: milliseconds) {
            switch try client.receive(DaemonReply.self, within: milliseconds) {
            case .message(.hello(let version, _)): return (client, version)
            case .timedOut: throw SilentDaemon(pid: client.peer, home: home)
            default:
                // The daemon closed the connection: it is ending, or has as many clients as it can serve.
                guard Steady.milliseconds < until else { throw SilentDaemon(pid: client.peer, home: home) }
                usleep(Self.pause)
            }
        }
        return nil
    }

    public func connect() throws -> JSONLinesClient {
        try self.home.prepare()
        let until = Steady.milliseconds + Self.giveUpAfter
        while true {
            if let client = try SilentDaemon.client(self.home, within: Self.helloWithin) {
                if try self.greets(client) { return client }
            } else if let lock = try FileLock.tryToAcquire(self.home.daemonLock) {
                try self.start(holding: lock)
                continue
            }
            guard Steady.milliseconds < until else {
                throw Problem(
                    .failed,
                    "the workspace daemon doesn't answer at \(self.home.daemonSocket)",
                    "End it, if it still runs, and look at \(self.home.daemonLog)."
                )
            }
            usleep(Self.pause)
        }
    }

    /// False: the daemon had another version and has handed over, or is about to end. Then one of our version can start.
    private func greets(_ client: JSONLinesClient) throws -> Bool {
        let received = try? client.receive(DaemonReply.self, within: Self.helloWithin)
        // A daemon that is about to end closes the connection. One that stays silent would only be found again at each
        // attempt.
        if case .timedOut? = received { throw SilentDaemon(pid: client.peer, home: self.home) }
        guard case .message(.hello(let version, let pid))? = received else { return false }
        if version == self.version { return true }
        try? client.send(DaemonRequest.handOver)
        switch try? client.receive(DaemonReply.self, within: Self.handOverWithin) {
        case .message(.done), .ended: return false
        default:
            throw Problem(
                .failed,
                "the workspace daemon (process \(pid)) is of version \(version), not \(self.version), and doesn't give its"
                    + " place away",
                "Stop its intercepts with the kl that started it, or end it with 'kill \(pid)'."
            )
        }
    }

    private func start(holding lock: borrowing FileLock) throws {
        let log = try self.openLog()
        defer { close(log) }
        let logStart = lseek(log, 0, SEEK_END)
        let ready = try Pipe()
        defer { close(ready.reader) }
        var spawn = Spawn(
            self.executable,
            ["daemon", "--lock-descriptor", "3", "--ready-descriptor", "4"],
            environment: self.home.variables
        )
        spawn.workingDirectory = "/"
        spawn.descriptors = [nil, log, log, lock.rawDescriptor, ready.writer]
        let started = Result { try spawn.start() }
        close(ready.writer)
        let pid = try started.get()
        guard self.isReady(ready.reader) else {
            // A daemon that can't start ends by itself. One that only took too long must not go on running.
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
            throw Problem(
                .failed,
                "the workspace daemon could not be started\(self.lastWords(since: logStart).map { ": \($0)" } ?? "")",
                "Look at \(self.home.daemonLog)."
            )
        }
    }

    private func openLog() throws -> CInt {
        var status = stat()
        if stat(self.home.daemonLog, &status) == 0, Int64(status.st_size) > WorkspaceHome.logAtMost {
            rename(self.home.daemonLog, "\(self.home.daemonLog).1")
        }
        let log = open(self.home.daemonLog, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard log >= 0 else { throw HostError("\(self.home.daemonLog) can't be written", code: errno) }
        return log
    }

    /// The daemon writes one byte once it listens; if the pipe ends without it, the daemon never will.
    private func isReady(_ pipe: CInt) -> Bool {
        let until = Steady.milliseconds + Int64(Self.readyWithin)
        while true {
            var wait = pollfd(fd: pipe, events: Int16(POLLIN), revents: 0)
            let count = poll(&wait, 1, CInt(clamping: max(0, until - Steady.milliseconds)))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            var byte: UInt8 = 0
            let read = read(pipe, &byte, 1)
            if read < 0, errno == EINTR { continue }
            return read == 1
        }
    }

    /// The last line that the daemon has logged, without the log's prefix.
    private func lastWords(since start: off_t) -> String? {
        guard let bytes = try? SmallFile.read(self.home.daemonLog, atMost: 4 * Int(WorkspaceHome.logAtMost)) else {
            return nil
        }
        let said = String(decoding: bytes.dropFirst(Int(clamping: start)), as: UTF8.self)
        guard let line = said.split(separator: "\n").last else { return nil }
        return String(line.trimmingPrefix("kl: ")).trimmingSuffix(".")
    }
}

extension String {
    fileprivate func trimmingSuffix(_ suffix: String) -> String {
        self.hasSuffix(suffix) ? String(self.dropLast(suffix.count)) : self
    }
}
