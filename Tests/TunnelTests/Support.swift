import NIOCore
import Noise
import Testing
import TunnelSimulator

@testable import Tunnel

typealias Bytes = [UInt8]

extension ByteBuffer {
    var bytes: Bytes { Bytes(self.readableBytesView) }
}

extension Instant {
    /// An instant of a test's own clock.
    static func seconds(_ seconds: Double) -> Instant { Instant(nanoseconds: Int64(seconds * 1e9)) }

    static func milliseconds(_ milliseconds: Int64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }
}

/// Bytes that differ from their neighbours, from an offset on.
func pattern(_ range: Range<UInt64>) -> Bytes {
    range.map { UInt8(truncatingIfNeeded: ($0 &* 0x9e37_79b9) >> 13 ^ $0) }
}

/// `#expect` for calls that change what they are called on, and for values that can't be copied.
func expect(_ isSo: Bool, _ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(isSo, comment, sourceLocation: sourceLocation)
}

func expect<Value: Equatable>(
    _ value: Value,
    is expected: Value,
    _ comment: Comment? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(value == expected, comment, sourceLocation: sourceLocation)
}
