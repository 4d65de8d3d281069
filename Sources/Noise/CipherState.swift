/// One direction's data key after `Split()` (Noise §5.1).
///
/// The counter is the caller's: one counter runs over all sessions of a connection (protocol §7.1), and no key ever sees the
/// same number twice, because a `CipherState` can't be copied. Additional data is empty, as in Noise.
public struct CipherState: ~Copyable {
    public static var tagByteCount: Int { ChaChaPoly.tagByteCount }

    private let key: Secret

    init(key: consuming Secret) {
        self.key = key
    }

    /// Seals in place: at `range` of `bytes` is the plaintext and behind it 16 bytes of room for the tag. What comes before
    /// stays as it is, and is not authenticated. `counter` is below 2^64 − 1.
    ///
    /// Quickest where `roomBefore` bytes are there before the plaintext and `roomBehind` behind it; those behind are overwritten.
    public borrowing func sealInPlace(_ bytes: inout MutableRawSpan, at range: Range<Int>, counter: UInt64) {
        ChaChaPoly.sealInPlace(&bytes, at: range, key: key, counter: counter)
    }

    public static var roomBefore: Int { ChaChaPoly.roomBefore }
    public static var roomBehind: Int { ChaChaPoly.roomBehind }
    /// For a message of so many bytes, ciphertext and tag.
    public static func roomToOpen(_ byteCount: Int) -> Int { ChaChaPoly.roomToOpen(byteCount) }

    /// Appends the plaintext of `sealed` (ciphertext ‖ tag) to `output`. false: it isn't authentic, or is too short, or
    /// `output` has no room for it; `output` is then as it was. Quickest with `roomToOpen`.
    public borrowing func open(_ sealed: RawSpan, counter: UInt64, into output: inout OutputRawSpan) -> Bool {
        ChaChaPoly.open(sealed, additionalData: RawSpan(), key: key, counter: counter, into: &output)
    }
}
