import CSodium

/// Where randomness comes from. `Noise` and `Tunnel` use only the source that they are given, so that a test determines every
/// ephemeral key, index and jitter by a seed.
public struct RandomSource: RandomNumberGenerator {
    private let source: (inout MutableRawSpan) -> Void

    /// `fill` overwrites all the bytes that it is given.
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
        // A seed gives the same sequence on every machine.
        return T(littleEndian: value)
    }
}
