import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct ReplayWindowTests {
    static let width = ReplayWindow.width

    @Test func isWide() { #expect(ReplayWindow.width >= 8_128) }

    /// A case of a counter after others: whether it is fresh then.
    static let table: [(seen: [UInt64], asked: UInt64, isFresh: Bool)] = [
        ([], 0, true),
        ([0], 0, false),
        ([0], 1, true),
        ([1], 0, true),
        ([width - 1], 0, true),
        ([width], 0, false),
        ([width], 1, true),
        ([width + 1], 0, false),
        ([width + 1], 1, false),
        ([width + 1], 2, true),
        ([1 << 40], (1 << 40) - width + 1, true),
        ([1 << 40], (1 << 40) - width, false),
        ([0, 1 << 40], 0, false),
        ([(1 << 62) - 1], (1 << 62) - 1, false),
        ([(1 << 62) - 1], (1 << 62) - 2, true),
        ([5, 5 + 64 * 128], 5 + 64 * 128 - 1, true),
        // A ring's length further: the same word and bit.
        ([7, 7 + 8_192], 7 + 8_192, false),
        ([7, 8 + 8_192], 7 + 8_192, true),
    ]

    @Test(arguments: table) func edges(seen: [UInt64], asked: UInt64, isFresh: Bool) {
        var window = ReplayWindow()
        for counter in seen { window.mark(counter) }
        expect(window.isFresh(asked) == isFresh)
    }

    @Test(arguments: 0..<40) func againstASet(_ seed: UInt64) {
        let random = SeededRandom(seed: seed)
        var window = ReplayWindow()
        var seen: Set<UInt64> = []
        var greatest: UInt64?
        var around: UInt64 = UInt64(random.between(0...100_000))
        for _ in 0..<4_000 {
            switch random.between(0...30) {
            case 0: around += UInt64(random.logarithmic(1...1_000_000))
            case 1: around += UInt64(random.between(0...130))
            default: break
            }
            let back = UInt64(random.logarithmic(1...20_000))
            let counter = around >= back ? around - back : 0
            let isOld = greatest.map { $0 >= counter && $0 + 1 - counter > Self.width } ?? false
            expect(window.isFresh(counter) == (!isOld && !seen.contains(counter)))
            if window.isFresh(counter), !random.isOne(in: 3) {
                window.mark(counter)
                seen.insert(counter)
                greatest = max(greatest ?? counter, counter)
                expect(!window.isFresh(counter))
            }
        }
    }
}
