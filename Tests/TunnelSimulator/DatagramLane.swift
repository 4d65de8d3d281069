import NIOCore
import Tunnel

/// One direction of a datagram path: a datagram may be lost, duplicated, delayed or reordered.
final class DatagramLane {
    struct Shape {
        var latency: Int64 = 10_000_000
        /// The largest additional delay of a datagram.
        var jitter: Int64 = 0
        var bytesPerSecond = 100_000_000
        /// Bytes that the queue before the slowest link holds; further datagrams are lost.
        var queue = 256 * 1_024
        /// Of 1,000.
        var lost = 0
        /// How many datagrams are lost in a row on average.
        var burst = 1
        /// Of 1,000.
        var repeated = 0
        /// Datagrams arrive only at multiples of this time.
        var grain: Int64 = 1
        /// In bytes of UDP payload; larger datagrams are lost.
        var mtu = 65_507
    }

    struct Datagram {
        var bytes: ByteBuffer
        /// The source address that the reader sees.
        var from: PathAddress
    }

    var shape: Shape
    private let random: SeededRandom
    /// In the order of arrival.
    private var underWay = CircularBuffer<(at: Int64, datagram: Datagram)>()
    private var pending = 0
    private var busyUntil: Int64 = 0
    private var lossesToCome = 0
    /// Datagrams sent before this time are lost.
    var isDarkUntil: Int64 = 0
    /// Only handshakes get through, and data messages (type 4) don't, as behind a device that blocks what looks like a flood.
    var losesData = false

    /// How many unread bytes the reader's socket buffer holds.
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
        // On average, as many are lost as if each were lost by itself.
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
