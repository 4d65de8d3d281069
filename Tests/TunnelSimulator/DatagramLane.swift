import NIOCore
import Tunnel

/// One direction of a path of datagrams: each may be lost, come twice, late, or behind a younger one.
final class DatagramLane {
    struct Shape {
        var latency: Int64 = 10_000_000
        /// What a datagram may take longer than another.
        var jitter: Int64 = 0
        var bytesPerSecond = 100_000_000
        /// Bytes before the slowest link; what finds no room is lost.
        var queue = 256 * 1_024
        /// Of 1,000.
        var lost = 0
        /// So many are lost in a row, at most.
        var burst = 1
        /// Of 1,000.
        var repeated = 0
        /// The reader is woken no more often than this.
        var grain: Int64 = 1
        /// Bytes of UDP payload; what is greater vanishes.
        var mtu = 65_507
    }

    struct Datagram {
        var bytes: ByteBuffer
        /// As the reader sees it.
        var from: PathAddress
    }

    var shape: Shape
    private let random: SeededRandom
    /// By arrival.
    private var underWay = CircularBuffer<(at: Int64, datagram: Datagram)>()
    private var pending = 0
    private var busyUntil: Int64 = 0
    private var lossesToCome = 0
    /// Nothing arrives that is sent before.
    var isDarkUntil: Int64 = 0
    /// Handshakes get through, and data messages (type 4) don't: something on the way knows a flood when it sees one.
    var losesData = false

    /// What a reader that doesn't read has room for, as the system's socket buffer.
    private static let unread = 256 * 1_024

    init(_ shape: Shape, random: SeededRandom) {
        self.shape = shape
        self.random = random
    }

    var nextArrival: Int64? { self.underWay.first?.at }

    func send(_ datagram: Datagram, at now: Int64) {
        let size = datagram.bytes.readableBytes
        if self.losesData, datagram.bytes.readableBytesView.first == 4 { return }
        guard now >= self.isDarkUntil, size <= self.shape.mtu, !self.loses() else { return }
        let waiting = max(0, self.busyUntil - now)
        let queued = Int(Double(waiting) / 1e9 * Double(self.shape.bytesPerSecond))
        guard queued + size <= max(self.shape.queue, size) else { return }
        self.busyUntil = max(self.busyUntil, now) + Int64(size) * 1_000_000_000 / Int64(self.shape.bytesPerSecond)
        self.deliver(datagram)
        if self.shape.repeated > 0, self.random.between(0...999) < self.shape.repeated { self.deliver(datagram) }
    }

    private func loses() -> Bool {
        if self.lossesToCome > 0 {
            self.lossesToCome -= 1
            return true
        }
        // As many in sum as if each were lost by itself.
        guard self.shape.lost > 0, self.random.between(0...1_000 * self.shape.burst - 1) < self.shape.lost else {
            return false
        }
        self.lossesToCome = 2 * self.random.between(0...self.shape.burst - 1)
        return true
    }

    private func deliver(_ datagram: Datagram) {
        guard self.pending + datagram.bytes.readableBytes <= max(Self.unread, 2 * self.shape.queue) else { return }
        self.pending += datagram.bytes.readableBytes
        let late = self.shape.jitter > 0 ? self.random.between(0...self.shape.jitter) : 0
        let exact = self.busyUntil + self.shape.latency + late
        let at = (exact + self.shape.grain - 1) / self.shape.grain * self.shape.grain
        self.underWay.append((at, datagram))
        var place = self.underWay.index(before: self.underWay.endIndex)
        while place > self.underWay.startIndex {
            let before = self.underWay.index(before: place)
            guard self.underWay[before].at > at else { break }
            self.underWay.swapAt(before, place)
            place = before
        }
    }

    func read(at now: Int64) -> Datagram? {
        guard let first = self.underWay.first, first.at <= now else { return nil }
        self.underWay.removeFirst()
        self.pending -= first.datagram.bytes.readableBytes
        return first.datagram
    }

    func drain() {
        self.underWay.removeAll()
        self.pending = 0
    }
}
