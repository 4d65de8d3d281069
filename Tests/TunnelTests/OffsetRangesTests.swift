import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct OffsetRangesTests {
    private static func ranges(of set: Set<UInt64>) -> [Range<UInt64>] {
        var ranges: [Range<UInt64>] = []
        for value in set.sorted() {
            if let last = ranges.last, last.upperBound == value {
                ranges[ranges.count - 1] = last.lowerBound..<value + 1
            } else {
                ranges.append(value..<value + 1)
            }
        }
        return ranges
    }

    @Test(arguments: 0..<60) func againstASet(_ seed: UInt64) {
        let random = SeededRandom(seed: seed)
        var ranges = OffsetRanges()
        var model: Set<UInt64> = []
        let space = random.logarithmic(8...300)
        for _ in 0..<300 {
            let start = UInt64(random.between(0...space))
            let range = start..<start + UInt64(random.between(0...12))
            switch random.between(0...9) {
            case 0...4:
                ranges.insert(range)
                model.formUnion(range)
            case 5...7:
                ranges.remove(range)
                model.subtract(range)
            case 8:
                if random.isOne(in: 4) {
                    ranges.remove(below: start)
                    model = model.filter { $0 >= start }
                }
            default:
                if let first = ranges.first, random.isOne(in: 4) {
                    ranges.removeFirst()
                    model.subtract(first)
                }
            }
            #expect(ranges.ranges == Self.ranges(of: model))
            #expect(ranges.contains(start) == model.contains(start))
            #expect(ranges.isEmpty == model.isEmpty)
            #expect(ranges.first?.lowerBound == model.min())
            #expect(ranges.last.map { $0.upperBound - 1 } == model.max())
        }
    }

    @Test func edges() {
        var ranges = OffsetRanges()
        ranges.insert(5..<5)
        #expect(ranges.isEmpty)
        ranges.insert(0..<1)
        ranges.insert(2..<3)
        #expect(ranges.count == 2)
        ranges.insert(1..<2)
        #expect(ranges.ranges == [0..<3])
        let last = VarInt.max - 1..<VarInt.max
        ranges.insert(last)
        #expect(ranges.count == 2)
        ranges.remove(1..<2)
        #expect(ranges.ranges == [0..<1, 2..<3, last])
        ranges.removeAll()
        #expect(ranges.isEmpty)
        ranges.removeFirst()
        #expect(ranges.first == nil)
    }
}
