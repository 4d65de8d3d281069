import NIOCore
import Tunnel

/// The datagrams of one end of one connection: any may be lost, but none may be duplicated, changed or invented.
final class DatagramTraffic {
    /// What one side has sent on a connection, and which datagrams of it have arrived at the other.
    final class Direction {
        let seed: UInt64
        var sizes: [Int] = []
        var received: Set<Int> = []

        init(seed: UInt64) { self.seed = seed }

        func payload(_ number: Int, size: Int) -> ByteBuffer {
            var bytes = ByteBuffer(integer: UInt64(number))
            let pattern = Pattern(base: self.seed &+ UInt64(number))
            bytes.writeImmutableBuffer(pattern.bytes(at: 0, count: size - 8))
            return bytes
        }
    }

    private let sending: Direction
    private let receiving: Direction
    private let random: SeededRandom
    private var tracked: Set<DatagramID> = []
    private(set) var nextAt: Int64

    /// The largest number of datagrams that wait for an acknowledgement, so that few events can come at once.
    static let trackedAtMost = 8
    /// This many datagrams are enough to meet every case.
    private static let atMost = 2_000

    init(sending: Direction, receiving: Direction, random: SeededRandom, at now: Int64) {
        self.sending = sending
        self.receiving = receiving
        self.random = random
        self.nextAt = now
    }

    var isDone: Bool { self.sending.sizes.count >= Self.atMost }

    func send(_ connection: inout Connection, at now: Int64) {
        for _ in 0..<self.random.logarithmic(1...8) where !self.isDone {
            let greatest = connection.greatestDatagram
            guard greatest >= 8 else { break }
            let size = self.random.isOne(in: 8) ? greatest : self.random.logarithmic(8...greatest)
            let wantsToHear = self.tracked.count < Self.trackedAtMost && self.random.isOne(in: 4)
            let payload = self.sending.payload(self.sending.sizes.count, size: size)
            guard let id = connection.sendDatagram(payload, isTracked: wantsToHear) else { break }
            self.sending.sizes.append(size)
            if wantsToHear { self.tracked.insert(id) }
        }
        self.nextAt = now + Int64(self.random.logarithmic(1_000_000...2_000_000_000))
    }

    func receive(_ connection: inout Connection, _ world: World) throws(SimulationFailure) {
        while let datagram = connection.nextDatagram() {
            guard let number: UInt64 = datagram.getInteger(at: datagram.readerIndex),
                number < UInt64(self.receiving.sizes.count)
            else { throw world.failure("a datagram that nobody sent") }
            let index = Int(number)
            try world.check(self.receiving.received.insert(index).inserted, "datagram \(index) came twice")
            let size = self.receiving.sizes[index]
            try world.check(datagram == self.receiving.payload(index, size: size), "datagram \(index) has other bytes")
        }
    }

    func acknowledged(_ id: DatagramID, _ world: World) throws(SimulationFailure) {
        try world.check(self.tracked.remove(id) != nil, "an acknowledgement that nobody waits for")
    }
}
