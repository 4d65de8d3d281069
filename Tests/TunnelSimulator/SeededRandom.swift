public import Noise

/// SplitMix64: a seed gives the same sequence on every machine.
public final class SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    public init(seed: UInt64) { self.state = seed }

    public func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        return Self.mix(self.state)
    }

    static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// A new generator, so that draws from one don't change the draws from another.
    public func fork() -> SeededRandom { SeededRandom(seed: self.next()) }

    public func between(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(self.next() % UInt64(range.count))
    }

    public func between(_ range: ClosedRange<Int64>) -> Int64 {
        range.lowerBound + Int64(self.next() % UInt64(range.upperBound - range.lowerBound + 1))
    }

    /// Small and large values are equally likely: the number of bits is drawn first, then the value.
    public func logarithmic(_ range: ClosedRange<Int>) -> Int {
        let low = Int.bitWidth - range.lowerBound.leadingZeroBitCount
        let high = Int.bitWidth - range.upperBound.leadingZeroBitCount
        let top = 1 << self.between(low...high)
        return min(max(range.lowerBound, self.between(top / 2...top)), range.upperBound)
    }

    public func isOne(in count: Int) -> Bool { self.next() % UInt64(count) == 0 }

    public func pick<Element>(_ elements: [Element]) -> Element { elements[self.between(0...elements.count - 1)] }

    /// The source of a tunnel's keys, indices and jitter.
    public var source: RandomSource {
        RandomSource { bytes in
            var offset = 0
            while offset < bytes.byteCount {
                let word = self.next()
                for shift in 0..<min(8, bytes.byteCount - offset) {
                    bytes.storeBytes(
                        of: UInt8(truncatingIfNeeded: word >> UInt64(8 * shift)),
                        toByteOffset: offset + shift,
                        as: UInt8.self
                    )
                }
                offset += 8
            }
        }
    }
}
