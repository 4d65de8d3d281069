import NIOCore
import Testing

@testable import Tunnel

@Suite struct TAI64NTests {
    private func encoded(_ time: TAI64N) -> Bytes {
        var buffer = ByteBuffer()
        time.write(into: &buffer)
        return buffer.bytes
    }

    @Test func encoding() {
        #expect(self.encoded(TAI64N(unixSeconds: 0, nanoseconds: 0)) == [0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0])
        // 2026-01-02 03:04:05.6 UTC.
        let time = TAI64N(unixSeconds: 1_767_323_045, nanoseconds: 600_000_000)
        #expect(self.encoded(time) == [0x40, 0, 0, 0, 0x69, 0x57, 0x35, 0xaf, 0x23, 0xc3, 0x46, 0x00])
        #expect(time.unixSeconds == 1_767_323_045)
        #expect(self.encoded(time).count == TAI64N.byteCount)
    }

    @Test func before1970() {
        #expect(TAI64N(unixSeconds: -1, nanoseconds: 5) == TAI64N(unixSeconds: 0, nanoseconds: 5))
        #expect(TAI64N(unixSeconds: .min, nanoseconds: 0) == TAI64N(unixSeconds: 0, nanoseconds: 0))
    }

    @Test func tooManyNanoseconds() {
        #expect(TAI64N(unixSeconds: 1, nanoseconds: .max) < TAI64N(unixSeconds: 2, nanoseconds: 0))
    }

    /// Comparing the values is comparing their 12 bytes.
    @Test func order() {
        let times = [
            TAI64N(unixSeconds: 0, nanoseconds: 0),
            TAI64N(unixSeconds: 0, nanoseconds: 1),
            TAI64N(unixSeconds: 0, nanoseconds: 256),
            TAI64N(unixSeconds: 0, nanoseconds: 999_999_999),
            TAI64N(unixSeconds: 1, nanoseconds: 0),
            TAI64N(unixSeconds: 256, nanoseconds: 0),
            TAI64N(unixSeconds: .max, nanoseconds: 0),
        ]
        for (left, right) in zip(times, times.dropFirst()) {
            #expect(left < right)
            #expect(self.encoded(left).lexicographicallyPrecedes(self.encoded(right)))
        }
    }

    @Test func successor() {
        let time = TAI64N(unixSeconds: 7, nanoseconds: 3)
        #expect(time.successor == TAI64N(unixSeconds: 7, nanoseconds: 4))
        let last = TAI64N(unixSeconds: 7, nanoseconds: 999_999_999)
        #expect(last.successor == TAI64N(unixSeconds: 8, nanoseconds: 0))
        #expect(last < last.successor)
    }

    /// A peer may send any 12 bytes.
    @Test(arguments: [Bytes(repeating: 0, count: 12), Bytes(repeating: 0xff, count: 12)])
    func anything(_ bytes: Bytes) throws {
        var buffer = ByteBuffer(bytes: bytes)
        let time = try #require(TAI64N(reading: &buffer))
        _ = time.unixSeconds
        _ = time.successor
        #expect(self.encoded(time) == bytes)
    }

    @Test func truncated() {
        for count in 0..<12 {
            var buffer = ByteBuffer(repeating: 1, count: count)
            expect(TAI64N(reading: &buffer), is: nil)
        }
    }
}
