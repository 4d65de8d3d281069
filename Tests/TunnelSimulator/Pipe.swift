import NIOCore

/// One direction of a simulated byte stream: bytes arrive in order, in pieces of any size, after a delay, until the stream
/// breaks.
final class Pipe {
    struct Shape {
        var latency: Int64 = 10_000_000
        var bytesPerSecond: Int = 100_000_000
        /// How many bytes may be in flight before the writer has to wait.
        var capacity = 256 * 1_024
        var pieces: ClosedRange<Int> = 1...16_384
    }

    private var shape: Shape
    private let random: SeededRandom
    private var pieces = CircularBuffer<(at: Int64, bytes: ByteBuffer)>()
    private var busyUntil: Int64 = 0
    private(set) var underWay = 0
    private(set) var carried = 0

    /// The offset at which it breaks: later bytes never arrive.
    var breaksAt: Int?
    /// The reader is gone: bytes are accepted and discarded.
    var isUnread = false
    /// The offset of a byte that is changed on the way.
    var corruptsAt: Int?

    init(_ shape: Shape, random: SeededRandom) {
        self.shape = shape
        self.random = random
    }

    var isBroken: Bool { self.breaksAt.map { self.carried >= $0 } ?? false }
    var isWritable: Bool { self.underWay < self.shape.capacity }
    var nextArrival: Int64? { self.pieces.first?.at }
    var lastArrival: Int64? { self.pieces.last?.at }
    var latency: Int64 { self.shape.latency }

    func write(_ bytes: ByteBuffer, at now: Int64) {
        var bytes = bytes
        let before = self.carried
        if let at = self.corruptsAt, before..<before + bytes.readableBytes ~= at {
            let index = bytes.readerIndex + at - before
            let byte: UInt8 = bytes.getInteger(at: index) ?? 0
            bytes.setInteger(byte ^ UInt8(1 << self.random.between(0...7)), at: index)
        }
        self.carried += bytes.readableBytes
        if self.isUnread { return }
        if let breaksAt = self.breaksAt {
            guard before < breaksAt else { return }
            if let rest = bytes.readSlice(length: min(bytes.readableBytes, breaksAt - before)) { bytes = rest }
        }
        self.underWay += bytes.readableBytes
        while bytes.readableBytes > 0 {
            let size = min(bytes.readableBytes, self.random.between(self.shape.pieces))
            guard let piece = bytes.readSlice(length: size) else { return }
            let duration = Int64(size) * 1_000_000_000 / Int64(self.shape.bytesPerSecond)
            self.busyUntil = max(self.busyUntil, now) + duration
            self.pieces.append((self.busyUntil + self.shape.latency, piece))
        }
    }

    func read(at now: Int64) -> ByteBuffer? {
        guard let first = self.pieces.first, first.at <= now else { return nil }
        self.pieces.removeFirst()
        self.underWay -= first.bytes.readableBytes
        return first.bytes
    }

    /// Loses the bytes in flight.
    func drain() {
        self.pieces.removeAll()
        self.underWay = 0
    }
}
