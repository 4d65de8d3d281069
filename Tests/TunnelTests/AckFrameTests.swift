import NIOCore
import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct AckFrameTests {
    private func read(_ numbers: [UInt64]) throws -> [ClosedRange<UInt64>] {
        var buffer = ByteBuffer()
        for number in numbers { buffer.writeVarInt(number) }
        let frame = try AckFrame(reading: &buffer)
        #expect(buffer.readableBytes == 0)
        return self.ranges(of: frame)
    }

    private func ranges(of frame: AckFrame) -> [ClosedRange<UInt64>] {
        var ranges: [ClosedRange<UInt64>] = []
        frame.forEachRange { range in
            ranges.append(range)
            return true
        }
        return ranges
    }

    @Test func ranges() throws {
        // Largest, delay, count of further ranges, first range; then gap and length for each.
        #expect(try self.read([10, 0, 0, 0]) == [10...10])
        #expect(try self.read([10, 0, 0, 10]) == [0...10])
        #expect(try self.read([10, 0, 1, 2, 0, 3]) == [8...10, 3...6])
        #expect(try self.read([10, 0, 2, 0, 0, 0, 6, 0]) == [10...10, 8...8, 0...0])
        #expect(try self.read([VarInt.max, 0, 0, VarInt.max]) == [0...VarInt.max])
        #expect(try self.read([VarInt.max, 0, 1, 0, VarInt.max - 2, 0]) == [VarInt.max...VarInt.max, 0...0])
    }

    static let malformed: [[UInt64]] = [
        [10, 0, 0, 11],
        [0, 0, 0, VarInt.max],
        [10, 0, 1, 8, 1, 0],
        [10, 0, 1, 0, 9, 0],
        [10, 0, 1, 0, 8, 1],
        [10, 0, 1, 0, VarInt.max, VarInt.max],
        [10, 0, VarInt.max, 0],
        [10, 0, 1, 0],
        [10, 0, 2, 0, 0, 0],
        [10, 0],
    ]

    @Test(arguments: malformed) func refused(_ numbers: [UInt64]) {
        #expect(throws: TransportError.self) { try self.read(numbers) }
    }

    @Test func delay() throws {
        for (encoded, delay) in [
            (UInt64(0), TimeAmount.zero), (1, .microseconds(8)), (3_125, .milliseconds(25)), (VarInt.max, .minutes(1)),
        ] {
            var buffer = ByteBuffer()
            for number in [5, encoded, 0, 0] as [UInt64] { buffer.writeVarInt(number) }
            #expect(try AckFrame(reading: &buffer).delay == delay)
        }
    }

    /// Thousands of ranges are read past, but no more of them are looked at than one need keep.
    @Test func thousandsOfRanges() throws {
        var numbers: [UInt64] = [100_000, 0, 5_000, 0]
        for _ in 0..<5_000 { numbers += [0, 0] }
        let ranges = try self.read(numbers)
        #expect(ranges.count == 1 + Constants.ackRangesKept)
    }

    /// What is written is what was received, newest first, as far as it fits.
    @Test(arguments: 0..<60) func writtenAndRead(_ seed: UInt64) throws {
        let random = SeededRandom(seed: seed)
        var received = ReceivedNumbers()
        var model: Set<UInt64> = []
        var next: UInt64 = UInt64(random.logarithmic(1...1 << 40))
        for _ in 0..<random.logarithmic(1...600) {
            if random.isOne(in: 5) { next += UInt64(random.logarithmic(1...300)) }
            received.receive(next, ackEliciting: true, bytes: 100, at: .seconds(1))
            model.insert(next)
            next += 1
        }
        #expect(received.rangeCount <= Constants.ackRangesKept)
        var buffer = ByteBuffer()
        let room = random.between(32...1_200)
        let largest = received.writeAck(into: &buffer, room: room, at: .seconds(1) + .milliseconds(8))
        #expect(largest == model.max())
        #expect(buffer.readableBytes <= room)
        guard case .ack(let frame) = try Frame(reading: &buffer) else {
            Issue.record("no ACK")
            return
        }
        #expect(frame.delay == .milliseconds(8))
        for range in self.ranges(of: frame) { for number in range { #expect(model.contains(number)) } }
        #expect(!received.hasUnacknowledged)
    }
}
