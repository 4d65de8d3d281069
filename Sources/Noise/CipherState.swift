/// One direction's data key after `Split()` (Noise §5.1).
///
/// The caller owns the counter: one counter runs over all sessions of a connection (protocol §7.1). A `CipherState` can't be
/// copied, so no key ever sees the same number twice. Additional data is empty, as in Noise.
public struct CipherState: ~Copyable {
    public static var tagByteCount: Int { ChaChaPoly.tagByteCount }

    private let key: Secret

    init(key: consuming Secret) {
        self.key = key
    }

    /// Seals in place: `range` of `bytes` is the plaintext, and 16 bytes of room for the tag follow it. Bytes before the
    /// plaintext keep their values, and are not authenticated. `counter` is below 2^64 − 1.
    ///
    /// It is fastest with `roomBefore` bytes before the plaintext and `roomBehind` bytes behind it; the latter are
    /// overwritten.
    public borrowing func sealInPlace(_ bytes: inout MutableRawSpan, at range: Range<Int>, counter: UInt64) {
        ChaChaPoly.sealInPlace(&bytes, at: range, key: key, counter: counter)
    }

    public static var roomBefore: Int { ChaChaPoly.roomBefore }
    public static var roomBehind: Int { ChaChaPoly.roomBehind }
    /// The room that opens a message of `byteCount` bytes, ciphertext and tag, fastest.
    public static func roomToOpen(_ byteCount: Int) -> Int { ChaChaPoly.roomToOpen(byteCount) }

    /// Appends the plaintext of `sealed` (ciphertext ‖ tag) to `output`. false: `sealed` isn't authentic, is too short, or
    /// finds no room; `output` is then as it was. It is fastest with `roomToOpen` bytes of room.
    public borrowing func open(_ sealed: RawSpan, counter: UInt64, into output: inout OutputRawSpan) -> Bool {
        ChaChaPoly.open(sealed, additionalData: RawSpan(), key: key, counter: counter, into: &output)
    }
}
