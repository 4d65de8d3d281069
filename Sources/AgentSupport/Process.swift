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
        #if os(Linux)
        let resource = __rlimit_resource_t(UInt32(7))  // RLIMIT_NOFILE
        #else
        let resource = RLIMIT_NOFILE
        #endif
        guard getrlimit(resource, &limit) == 0 else { return 1_024 }
        let hard = limit.rlim_max
        limit.rlim_cur = hard
        if setrlimit(resource, &limit) != 0 { getrlimit(resource, &limit) }
        return Int(clamping: limit.rlim_cur)
    }

    /// Keys are in memory: a crash must not write them to a file.
    public static func forbidCoreDumps() {
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        #if os(Linux)
        setrlimit(__rlimit_resource_t(UInt32(4)), &none)  // RLIMIT_CORE
        #else
        setrlimit(RLIMIT_CORE, &none)
        #endif
    }

    /// Call it before any thread starts: SIGTERM and SIGINT then wait for `nextEndSignal`, and a closed pipe is no signal.
    public static func holdEndSignals() {
        signal(SIGPIPE, SIG_IGN)
        var signals = self.endSignals
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// Blocks this thread until someone asks the program to end.
    public static func nextEndSignal() -> CInt {
        var signals = self.endSignals
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
}
