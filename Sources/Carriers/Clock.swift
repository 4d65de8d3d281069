import Libc
import Tunnel

/// The clocks for the tunnel core, which reads none itself.
enum Clock {
    /// Runs while the machine sleeps, so that a night in a closed laptop counts towards a key's age. NIO's own deadlines
    /// don't (they use CLOCK_MONOTONIC): never compare the two.
    static func now() -> Instant {
        var time = timespec()
        #if os(Linux)
        clock_gettime(CLOCK_BOOTTIME, &time)
        #else
        // Darwin's CLOCK_MONOTONIC runs during sleep.
        clock_gettime(CLOCK_MONOTONIC, &time)
        #endif
        return Instant(nanoseconds: Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec))
    }

    /// CLOCK_MONOTONIC on Linux: stands still while the machine sleeps.
    static func monotonic() -> Instant {
        var time = timespec()
        #if os(Linux)
        clock_gettime(CLOCK_MONOTONIC, &time)
        #else
        clock_gettime(CLOCK_UPTIME_RAW, &time)
        #endif
        return Instant(nanoseconds: Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec))
    }

    static func wallClock() -> TAI64N {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return TAI64N(unixSeconds: Int64(time.tv_sec), nanoseconds: UInt32(clamping: time.tv_nsec))
    }
}
