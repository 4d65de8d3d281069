import Tunnel

/// What the two applications will do with a stream. It follows from the stream's id, so that both know it.
struct StreamPlan {
    struct Direction {
        var size: Int
        /// After how many written bytes the writer resets the stream.
        var resetsAt: Int?
        /// After how many read bytes the reader stops the stream.
        var stopsAt: Int?
        var writeSize = 1...65_536
        var writePause: ClosedRange<Int64> = 0...0
        var readSize = Int.max
        var readPause: ClosedRange<Int64> = 0...0
    }

    var down: Direction
    var up: Direction
    /// The initiator writes back what it reads, and ends its direction when the other one ends.
    var isEcho: Bool
    var releasePause: Int64

    /// Settings of all streams of a scenario.
    public struct Limits: Sendable {
        var sizes = 0...200_000
        /// One stream in this many is reset by its writer, or stopped by its reader.
        var resets: Int? = 12
        var stops: Int? = 12
        /// Whether half of these use the code `tcpReset`.
        var resetsAsTCP = true
        var slowOnes: Int? = 4
    }

    init(_ random: SeededRandom, _ limits: Limits) {
        self.isEcho = random.isOne(in: 3)
        self.down = Self.direction(random, limits)
        self.up = Self.direction(random, limits)
        if self.isEcho {
            self.up = self.down
            self.up.resetsAt = nil
            self.up.stopsAt = nil
            if self.down.stopsAt != nil { self.down.stopsAt = nil }
        }
        self.releasePause = random.isOne(in: 4) ? random.between(0...500_000_000) : 0
    }

    /// Stream 0, which never ends and is never given up.
    static let control = StreamPlan(endless: ())

    private init(endless: Void) {
        self.down = Direction(size: .max, writeSize: 1...2_000, writePause: 300_000_000...3_000_000_000)
        self.up = self.down
        self.isEcho = false
        self.releasePause = 0
    }

    private static func direction(_ random: SeededRandom, _ limits: Limits) -> Direction {
        var plan = Direction(size: limits.sizes.lowerBound)
        if !random.isOne(in: 10), limits.sizes.upperBound > 0 {
            plan.size = random.logarithmic(max(1, limits.sizes.lowerBound)...limits.sizes.upperBound)
        }
        if let slow = limits.slowOnes, random.isOne(in: slow) {
            plan.readSize = random.logarithmic(16...32_768)
            plan.readPause = 1_000_000...100_000_000
            // Slow readers get short streams: a hundred turns show as much as ten thousand.
            plan.size = min(plan.size, 100 * plan.readSize)
        }
        if let slow = limits.slowOnes, random.isOne(in: slow) {
            plan.writeSize = 1...random.logarithmic(16...8_192)
            plan.writePause = 0...50_000_000
            plan.size = min(plan.size, 50 * plan.writeSize.upperBound)
        }
        if let resets = limits.resets, random.isOne(in: resets) { plan.resetsAt = random.between(0...plan.size) }
        if let stops = limits.stops, random.isOne(in: stops) { plan.stopsAt = random.between(0...plan.size) }
        return plan
    }
}
