import Libc

/// Tracks which generation of the accepted keys a sidecar has read, as a value.
///
/// A sidecar reports when it begins to read them. A reading that began before it was asked may have seen the old file, and
/// doesn't count.
struct Reload: Equatable, Sendable {
    /// The generation that it has read for certain.
    private(set) var generation = 0
    private var asked: Asked?
    private var isReading = false

    private struct Asked: Equatable {
        var generation: Int
        var at: UInt64
    }

    /// A new process reads the file after it has begun, so it has at least this generation.
    mutating func started(generation: Int) { self = Reload(generation: generation) }

    private init(generation: Int) { self.generation = generation }

    init() {}

    /// Whether a running sidecar must be asked: it has neither read the wanted generation nor been asked for it.
    func ready(wanted: Int) -> Bool { self.generation < wanted && (self.asked?.generation ?? 0) < wanted }

    /// - Parameter time: in microseconds of the monotonic clock, as in sd_notify(3).
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
}
