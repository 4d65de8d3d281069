/// A Curve25519 public key (protocol §2), held inline: it is compared, hashed and copied on every handshake.
public struct PublicKey: Hashable, Sendable {
    public static var byteCount: Int { 32 }

    private var words: InlineWords4

    /// nil unless there are exactly 32 bytes. Any 32 bytes are a public key (RFC 7748 §5); a key of low order is detected
    /// when a Diffie-Hellman with it gives zero.
    public init?(_ bytes: RawSpan) {
        guard let words = InlineWords4(bytes) else { return nil }
        self.words = words
    }

    /// nil when `body` returns false, or writes fewer than 32 bytes.
    init?(writing body: (inout OutputRawSpan) -> Bool) {
        var words = InlineWords4()
        guard words.write(body) else { return nil }
        self.words = words
    }

    init(_ words: InlineWords4) {
        self.words = words
    }

    public func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try words.withBytes(body)
    }
}
