import InterceptModel
import Libc

/// How many descriptors (files and sockets) a process may have. Agents raise their soft limit to the hard one.
struct LimitFacts {
    var soft: UInt64
    var hard: UInt64

    /// † A tunnelled connection takes one, a connection passed on to the original two, and each agent a few dozen.
    private static let enough: UInt64 = 4_096
    private static let least: UInt64 = 128

    var checks: [Check] {
        let hard = self.hard > 1 << 32 ? "unlimited" : "\(self.hard)"
        let mend = "Raise it: /etc/security/limits.conf, or LimitNOFILE= of a unit."
        if self.hard < Self.least { return [.failed("descriptors", "at most \(hard) for a process", mend)] }
        if self.hard < Self.enough {
            return [.warning("descriptors", "at most \(hard) for a process, so few connections at once", mend)]
        }
        return [.ok("descriptors", "\(self.soft), which agents raise to \(hard)")]
    }
}

extension LimitFacts {
    /// The limits of this process.
    static var here: LimitFacts {
        var limit = rlimit()
        getrlimit(ResourceLimit.openFiles, &limit)
        return LimitFacts(soft: UInt64(limit.rlim_cur), hard: UInt64(limit.rlim_max))
    }
}

/// The wall clock. Each handshake carries its time, and a sidecar rejects one that is older than the last.
struct ClockFacts {
    /// Seconds since 1970.
    var now: Int64
    /// Seconds since the machine was started, including sleep.
    var uptime: Int64
    /// When one of kl's files was last changed; nil: there are none.
    var latestChange: Int64?

    /// 2025-01-01, before this version was made: an earlier time is wrong.
    private static let earliest: Int64 = 1_735_689_600
    private static let tolerance: Int64 = 60

    var checks: [Check] {
        let mend = "Set it right: timedatectl set-ntp true"
        guard self.now >= Self.earliest else {
            return [.failed("clock", "it says \(Self.date(self.now)), and that is long past", mend)]
        }
        guard self.now - self.uptime >= Self.earliest else {
            return [
                .warning(
                    "clock",
                    "by it the machine was started at \(Self.date(self.now - self.uptime)), which can't be",
                    mend
                )
            ]
        }
        if let latest = self.latestChange, latest > self.now + Self.tolerance {
            return [
                .warning(
                    "clock",
                    "it was set back by \(latest - self.now) s or more, and sidecars take handshakes for old ones",
                    "\(mend); or start the sidecars again."
                )
            ]
        }
        return [.ok("clock", "\(Self.date(self.now)), started at \(Self.date(self.now - self.uptime))")]
    }

    private static func date(_ seconds: Int64) -> String {
        UTCTime(seconds: Int(seconds)).rfc3339.split(separator: "T").joined(separator: " ").dropLast() + " UTC"
    }
}

extension ClockFacts {
    /// - Parameter files: files that `kl` writes.
    static func here(files: [String]) -> ClockFacts {
        var wall = timespec()
        clock_gettime(CLOCK_REALTIME, &wall)
        var up = timespec()
        #if os(Linux)
        clock_gettime(CLOCK_BOOTTIME, &up)
        #else
        clock_gettime(CLOCK_MONOTONIC, &up)
        #endif
        let changes = files.compactMap { path in
            var status = stat()
            return stat(path, &status) == 0 ? Int64(status.st_mtim.tv_sec) : nil
        }
        return ClockFacts(now: Int64(wall.tv_sec), uptime: Int64(up.tv_sec), latestChange: changes.max())
    }
}
