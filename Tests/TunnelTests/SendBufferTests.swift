import NIOCore
import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct SendBufferTests {
    private func send(_ buffer: inout SendBuffer, _ room: Int, _ credit: UInt64 = .max) -> Range<UInt64>? {
        guard let range = buffer.nextRange(atMost: room, freshAtMost: credit) else { return nil }
        var output = ByteBuffer()
        output.writeWithOutputRawSpan(minimumWritableBytes: range.count) { buffer.send(range, into: &$0) }
        #expect(output.bytes == pattern(range))
        return range
    }

    @Test func lostBytesGoFirst() {
        var buffer = SendBuffer()
        buffer.append(ByteBuffer(bytes: pattern(0..<100)))
        expect(self.send(&buffer, 60), is: 0..<60)
        expect(self.send(&buffer, 60, 10), is: 60..<70)
        buffer.lose(20..<30)
        buffer.lose(65..<70)
        #expect(buffer.hasLost)
        expect(self.send(&buffer, 6, 0), is: 20..<26, "what was sent before needs no new credit")
        expect(self.send(&buffer, 60, 0), is: 26..<30)
        expect(self.send(&buffer, 60, 0), is: 65..<70)
        expect(self.send(&buffer, 60, 0), is: nil)
        expect(self.send(&buffer, 60), is: 70..<100)
        #expect(buffer.unsent == 0)
    }

    @Test func whatArrivedIsNotLost() {
        var buffer = SendBuffer()
        buffer.append(ByteBuffer(bytes: pattern(0..<100)))
        expect(self.send(&buffer, 100), is: 0..<100)
        expect(buffer.acknowledge(40..<60), is: 0, "nothing is let go beyond a gap")
        buffer.lose(30..<70)
        expect(self.send(&buffer, 100), is: 30..<40)
        expect(self.send(&buffer, 100), is: 60..<70)
        expect(buffer.acknowledge(0..<40), is: 60)
        #expect(buffer.base == 60)
        buffer.lose(0..<100)
        expect(self.send(&buffer, 100), is: 60..<100)
        expect(buffer.acknowledge(60..<100), is: 40)
        #expect(buffer.isAllAcknowledged)
        #expect(buffer.buffered == 0)
        expect(buffer.acknowledge(0..<100), is: 0, "again")
        buffer.lose(0..<100)
        #expect(!buffer.hasLost)
    }

    /// One message was taken for lost and sent again as several, of which some have arrived, with gaps between them; and then
    /// it turns out to have arrived itself.
    @Test func whatWasSplitWhenSentAgain() {
        var buffer = SendBuffer()
        buffer.append(ByteBuffer(bytes: pattern(0..<100)))
        expect(self.send(&buffer, 100), is: 0..<100)
        expect(buffer.acknowledge(10..<20), is: 0)
        expect(buffer.acknowledge(30..<40), is: 0)
        expect(buffer.acknowledge(50..<100), is: 0)
        expect(buffer.acknowledge(0..<55), is: 100)
        #expect(buffer.isAllAcknowledged)
    }

    @Test func discarding() {
        var buffer = SendBuffer()
        buffer.append(ByteBuffer(bytes: pattern(0..<100)))
        expect(self.send(&buffer, 70), is: 0..<70)
        expect(buffer.acknowledge(0..<10), is: 10)
        expect(buffer.discard(), is: 90)
        #expect(buffer.sentEnd == 70)
        #expect(buffer.end == 70)
        expect(self.send(&buffer, 100), is: nil)
        expect(buffer.acknowledge(10..<70), is: 0)
    }

    /// A read of ten bytes doesn't keep alive the 64 KiB that it was read into.
    @Test func smallWritesAreCopied() {
        var buffer = SendBuffer()
        var large = ByteBuffer(repeating: 7, count: 65_536)
        if let ten = large.readSlice(length: 10) { buffer.append(ten) }
        large.clear()
        #expect(buffer.memoryInUse < 256)
        for _ in 0..<1_000 { buffer.append(ByteBuffer(bytes: [1, 2, 3])) }
        #expect(buffer.memoryInUse < 3 * 3_010)
    }

    /// Against a plain array of what was written, and for each byte what became of it.
    @Test(arguments: 0..<80) func againstAnArray(_ seed: UInt64) {
        enum Fate { case unsent, underWay, lost, acknowledged }
        let random = SeededRandom(seed: seed)
        var buffer = SendBuffer()
        var fates: [Fate] = []
        var messages: [Range<UInt64>] = []
        func firstUnacknowledged() -> Int { fates.firstIndex { $0 != .acknowledged } ?? fates.count }
        for _ in 0..<400 {
            switch random.between(0...9) {
            case 0...2:
                let count = random.logarithmic(1...9_000) - 1
                let start = UInt64(fates.count)
                buffer.append(ByteBuffer(bytes: pattern(start..<start + UInt64(count))))
                fates += Array(repeating: .unsent, count: count)
            case 3...5:
                guard let range = self.send(&buffer, random.logarithmic(1...17_000), UInt64(random.between(0...20_000)))
                else { break }
                let firstLost = fates.firstIndex(of: .lost)
                if let firstLost { #expect(range.lowerBound == UInt64(firstLost)) }
                let indices = Int(range.lowerBound)..<Int(range.upperBound)
                #expect(fates[indices].allSatisfy { $0 == (firstLost == nil ? .unsent : .lost) })
                for at in indices { fates[at] = .underWay }
                messages.append(range)
            case 6, 7:
                guard !messages.isEmpty else { break }
                let range = messages.remove(at: random.between(0...messages.count - 1))
                let before = firstUnacknowledged()
                let freed = buffer.acknowledge(range)
                for at in range { fates[Int(at)] = .acknowledged }
                #expect(freed == firstUnacknowledged() - before)
            default:
                guard !messages.isEmpty else { break }
                let at = random.between(0...messages.count - 1)
                // It may arrive all the same.
                let range = random.isOne(in: 2) ? messages[at] : messages.remove(at: at)
                buffer.lose(range)
                for at in range where fates[Int(at)] == .underWay { fates[Int(at)] = .lost }
            }
            #expect(buffer.end == UInt64(fates.count))
            #expect(buffer.base == UInt64(firstUnacknowledged()))
            #expect(buffer.hasLost == fates.contains(.lost))
            #expect(buffer.unsent == fates.count { $0 == .unsent })
        }
    }
}
