#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Which version of the accepted keys a sidecar has, as a value.
///
/// It says when it begins to read them; what began before it was asked may have seen the file as it was.
struct Reload: Equatable, Sendable {
    /// The version that it has for certain.
    private(set) var generation = 0
    private var asked: Asked?
    private var isReading = false

    private struct Asked: Equatable {
        var generation: Int
        var at: UInt64
    }

    /// The file is read after the process has begun.
    mutating func started(generation: Int) { self = Reload(generation: generation) }

    private init(generation: Int) { self.generation = generation }

    init() {}

    /// True: it runs, and must be asked.
    func ready(wanted: Int) -> Bool { self.generation < wanted && (self.asked?.generation ?? 0) < wanted }

    /// - Parameter time: in microseconds of the clock that sd_notify(3) names.
    mutating func asked(generation: Int, at time: UInt64) {
        self.asked = Asked(generation: generation, at: time)
        self.isReading = false
    }

    mutating func begins(at time: UInt64) {
        guard let asked = self.asked, time >= asked.at else { return }
        self.isReading = true
    }

    mutating func done() {
        guard self.isReading, let asked = self.asked else { return }
        self.generation = asked.generation
        self.asked = nil
        self.isReading = false
    }

    static func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
    }
}
