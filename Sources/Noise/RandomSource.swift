import CSodium

/// Where randomness comes from. `Noise` and `Tunnel` draw none that they were not handed, so that a test fixes every
/// ephemeral key, index and jitter by a seed.
public struct RandomSource: RandomNumberGenerator {
    private let source: (inout MutableRawSpan) -> Void

    /// `fill` writes all the bytes that it is given.
    public init(_ fill: @escaping (inout MutableRawSpan) -> Void) {
        source = fill
    }

    /// The kernel's generator through libsodium.
    public static var system: RandomSource {
        Sodium.initialize()
        return RandomSource { bytes in
            bytes.withUnsafeMutableBytes { buffer in
                if let start = buffer.baseAddress { randombytes_buf(start, buffer.count) }
            }
        }
    }

    public func fill(_ bytes: inout MutableRawSpan) {
        source(&bytes)
    }

    public func next() -> UInt64 {
        integer()
    }

    public func nextUInt32() -> UInt32 {
        integer()
    }

    private func integer<T: FixedWidthInteger & BitwiseCopyable>() -> T {
        var value: T = 0
        withUnsafeMutableBytes(of: &value) { buffer in
            var bytes = MutableRawSpan(_unsafeBytes: buffer)
            source(&bytes)
        }
        // One seed gives one sequence on every machine.
        return T(littleEndian: value)
    }
}
