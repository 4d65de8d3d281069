import HostSupport
import InterceptModel
import Libc
import Logging
import NIOCore
public import WorkspaceAPI

/// The daemon's process: what `kl daemon` runs, which `kl` starts by itself.
public struct DaemonProcess: Sendable {
    public var home: WorkspaceHome
    public var version: String
    /// The descriptor of the lock that the starter has passed on; nil: the lock is taken here.
    public var lockDescriptor: CInt?
    /// The descriptor to which one byte is written once the daemon listens.
    public var readyDescriptor: CInt?
    public var makeEnvironment: EnvironmentMaker

    private static let idleSeconds = 60.0

    public init(
        home: WorkspaceHome,
        version: String = Version.number,
        lockDescriptor: CInt? = nil,
        readyDescriptor: CInt? = nil,
        makeEnvironment: @escaping EnvironmentMaker
    ) {
        self.home = home
        self.version = version
        self.lockDescriptor = lockDescriptor
        self.readyDescriptor = readyDescriptor
        self.makeEnvironment = makeEnvironment
    }

    /// Runs until the daemon is told to end, or has been idle for a while.
    public func run() throws -> Never {
        Process.holdEndSignals()
        Process.forbidCoreDumps()
        let descriptors = Process.raiseDescriptorLimit()
        Process.keepFreedMemory()
        let lock = try self.takeLock()
        // Programs that an environment starts must not inherit them.
        for descriptor in [self.lockDescriptor, self.readyDescriptor].compactMap(\.self) {
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
        let handler = LineLogHandler(label: "kl daemon", format: .text, level: .info)
        let log = Logger(label: "kl daemon") { _ in handler }
        let identity = try WorkspaceIdentity(home: self.home)

        let started = DaemonLoop.eventLoop.makePromise(of: Daemon.self)
        started.completeWithTask { @DaemonLoop in
            let daemon = Daemon(
                home: self.home,
                identity: identity,
                version: self.version,
                idleTime: Self.idleTime,
                clientsAtMost: Daemon.clientsAtMost(ofDescriptors: descriptors),
                log: log,
                makeEnvironment: self.makeEnvironment,
                onEnd: { Ending(name: "kl", saying: nil, code: Ending.done).exit() }
            )
            try await daemon.start()
            return daemon
        }
        let daemon: Daemon
        do {
            daemon = try started.futureResult.wait()
        } catch {
            throw Problem(.failed, "\(error)", "Look at the folder \(self.home.state).")
        }
        if let readyDescriptor {
            var byte: UInt8 = 1
            _ = write(readyDescriptor, &byte, 1)
            close(readyDescriptor)
        }
        _ = Process.nextEndSignal()
        Task { @DaemonLoop in await daemon.shutDown() }
        // A second signal ends the process at once. The next daemon finds its intercepts stored.
        _ = Process.nextEndSignal()
        withExtendedLifetime(lock) {}
        Ending(name: "kl", saying: nil, code: Ending.interrupted).exit()
    }

    private func takeLock() throws -> FileLock {
        if let lockDescriptor {
            guard fcntl(lockDescriptor, F_GETFD) >= 0 else {
                throw Problem(.failed, "no lock was handed down", "Let kl start its daemon by itself.")
            }
            return .inherited(lockDescriptor)
        }
        try self.home.prepare()
        guard let lock = try FileLock.tryToAcquire(self.home.daemonLock) else {
            throw Problem(.failed, "the workspace daemon runs already", "Let kl start it by itself.")
        }
        return lock
    }

    private static var idleTime: TimeAmount {
        let seconds = Spawn.ownEnvironment["KL_DAEMON_IDLE_SECONDS"].flatMap(Double.init) ?? Self.idleSeconds
        return .milliseconds(Int64(min(max(seconds, 0), 1_000_000) * 1_000))
    }
}
