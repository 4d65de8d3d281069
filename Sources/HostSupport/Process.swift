import CMemory
import Libc

/// Process settings for long-running programs.
public enum Process {
    /// Raises the soft limit of descriptors to the hard one, as each connection needs one. Returns the limit in force.
    @discardableResult
    public static func raiseDescriptorLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(ResourceLimit.openFiles, &limit) == 0 else { return 1_024 }
        let hard = limit.rlim_max
        limit.rlim_cur = hard
        if setrlimit(ResourceLimit.openFiles, &limit) != 0 { getrlimit(ResourceLimit.openFiles, &limit) }
        return Int(clamping: limit.rlim_cur)
    }

    /// If standard input is closed, opens /dev/null in its place, so that no file opened later gets its descriptor. Call it
    /// first.
    public static func fillStandardInput() {
        guard fcntl(STDIN_FILENO, F_GETFD) < 0 else { return }
        let descriptor = open("/dev/null", O_RDONLY)
        guard descriptor > STDIN_FILENO else { return }
        dup2(descriptor, STDIN_FILENO)
        close(descriptor)
    }

    /// For programs that carry bytes: they free and allocate buffers of 64 KiB all the time. By default glibc returns the
    /// end of its heap to the system at 128 KiB, so the kernel would clear page after page: a tenth of the CPU. † 4 MiB are
    /// kept instead.
    public static func keepFreedMemory() { kl_keep_freed_memory(4 * 1_024 * 1_024) }

    /// For the same programs while they rest. glibc returns no more than the end of a heap by itself, and after a load something is
    /// nearly always left at the end.
    public static func returnFreedMemory() { kl_return_freed_memory() }

    /// The time for which processors have worked for this process.
    public static var processorTime: Duration {
        var time = timespec()
        guard clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return .zero }
        return .seconds(Int64(time.tv_sec)) + .nanoseconds(Int64(time.tv_nsec))
    }

    /// Keys are in memory, and a crash must not write them to disk.
    ///
    /// Linux pipes a core dump to a handler regardless of the limit, except for a limit of 1, into which no file fits
    /// either (core(5), fs/coredump.c).
    public static func forbidCoreDumps() {
        var limit = rlimit()
        guard getrlimit(ResourceLimit.coreFile, &limit) == 0 else { return }
        #if os(Linux)
        let size = min(1, limit.rlim_max)
        #else
        let size: rlim_t = 0
        #endif
        limit = rlimit(rlim_cur: size, rlim_max: size)
        setrlimit(ResourceLimit.coreFile, &limit)
    }

    /// Call it before any thread starts. SIGTERM and SIGINT then wait for `nextEndSignal`, and SIGPIPE is ignored.
    public static func holdEndSignals() { self.hold(self.endSignals) }

    /// The same; SIGHUP waits, too, for `nextSignal`.
    public static func holdEndAndReloadSignals() { self.hold(self.endAndReloadSignals) }

    /// Blocks this thread until SIGTERM or SIGINT arrives.
    public static func nextEndSignal() -> CInt { self.next(of: self.endSignals) }

    public enum Request: Sendable {
        case end
        case reload
    }

    /// Blocks this thread until SIGTERM, SIGINT or SIGHUP arrives.
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
