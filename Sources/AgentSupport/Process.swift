import CMemory

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// What a long-running program asks of its process.
public enum Process {
    /// Every connection is a descriptor: the soft limit goes up to the hard one. Returns what is in force.
    @discardableResult
    public static func raiseDescriptorLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(openFiles, &limit) == 0 else { return 1_024 }
        let hard = limit.rlim_max
        limit.rlim_cur = hard
        if setrlimit(openFiles, &limit) != 0 { getrlimit(openFiles, &limit) }
        return Int(clamping: limit.rlim_cur)
    }

    /// Where it is closed, /dev/null takes its place, so that no file that is opened later gets its descriptor. Called first.
    public static func fillStandardInput() {
        guard fcntl(STDIN_FILENO, F_GETFD) < 0 else { return }
        let descriptor = open("/dev/null", O_RDONLY)
        guard descriptor > STDIN_FILENO else { return }
        dup2(descriptor, STDIN_FILENO)
        close(descriptor)
    }

    /// For programs that carry bytes: buffers of 64 KiB are freed and wanted again all the time, and glibc gives the end of its
    /// heap back to the system at 128 KiB, so that the kernel would clear page after page: a tenth of the CPU. † 4 MiB stay.
    public static func keepFreedMemory() { kl_keep_freed_memory(4 * 1_024 * 1_024) }

    /// Keys are in memory: a crash must not write them anywhere.
    ///
    /// Linux pipes a dump to a handler whatever the limit is, but for 1, which no file fits into either (core(5),
    /// fs/coredump.c).
    public static func forbidCoreDumps() {
        var limit = rlimit()
        guard getrlimit(coreFile, &limit) == 0 else { return }
        #if os(Linux)
        let size = min(1, limit.rlim_max)
        #else
        let size: rlim_t = 0
        #endif
        limit = rlimit(rlim_cur: size, rlim_max: size)
        setrlimit(coreFile, &limit)
    }

    /// Call it before any thread starts: SIGTERM and SIGINT then wait for `nextEndSignal`, and a closed pipe is no signal.
    public static func holdEndSignals() { self.hold(self.endSignals) }

    /// The same, and SIGHUP too waits, for `nextSignal`.
    public static func holdEndAndReloadSignals() { self.hold(self.endAndReloadSignals) }

    /// Blocks this thread until someone asks the program to end.
    public static func nextEndSignal() -> CInt { self.next(of: self.endSignals) }

    public enum Request: Sendable {
        case end
        case reload
    }

    /// Blocks this thread until someone asks for something.
    public static func nextSignal() -> Request { self.next(of: self.endAndReloadSignals) == SIGHUP ? .reload : .end }

    private static func hold(_ signals: sigset_t) {
        signal(SIGPIPE, SIG_IGN)
        var signals = signals
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    private static func next(of signals: sigset_t) -> CInt {
        var signals = signals
        var number: CInt = 0
        while sigwait(&signals, &number) != 0 {}
        return number
    }

    private static var endSignals: sigset_t {
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGTERM)
        sigaddset(&signals, SIGINT)
        return signals
    }

    private static var endAndReloadSignals: sigset_t {
        var signals = self.endSignals
        sigaddset(&signals, SIGHUP)
        return signals
    }
}

// glibc's functions take another type than its constants have.
#if canImport(Glibc)
private let openFiles = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
private let coreFile = __rlimit_resource_t(RLIMIT_CORE.rawValue)
#else
private let openFiles = RLIMIT_NOFILE
private let coreFile = RLIMIT_CORE
#endif
