/// The optional 32 bytes that both ends share beforehand (protocol §2): with them, traffic recorded now stays secret even if
/// Curve25519 is broken later.
public final class PresharedKey: Sendable {
    public static let byteCount = 32

    /// All zero: the value when no preshared key is set.
    public static let none = PresharedKey(LockedBytes(byteCount: byteCount))

    private let key: LockedBytes

    /// Fills the 32 bytes straight into locked memory. nil when `body` returns false.
    public convenience init?(filling body: (inout MutableRawSpan) -> Bool) {
        var key = LockedBytes(byteCount: Self.byteCount)
        guard key.withMutableBytes(body) else { return nil }
        self.init(key)
    }

    /// `text` is base64 as `wg genpsk` prints it, without a newline; nil when it isn't exactly that.
    public convenience init?(base64 text: RawSpan) {
        self.init(filling: { key in Base64.decodeKey(text, into: &key) })
    }

    private init(_ key: consuming LockedBytes) {
        self.key = key
    }

    public static func generate() -> PresharedKey {
        var key = LockedBytes(byteCount: byteCount)
        key.withMutableBytes { RandomSource.system.fill(&$0) }
        return PresharedKey(key)
    }

    public func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try key.withBytes(body)
    }

    /// The key as `wg genpsk` prints it, newline included, in locked memory.
    public func base64Line() -> LockedBytes {
        withBytes { Base64.line(of: $0) }
    }
}
