/// `h` at the end of a handshake (Noise §5.2): 64 bytes that identify the session. It is public: it reveals nothing about the
/// keys.
public struct HandshakeHash: Equatable, Sendable {
    public static var byteCount: Int { 64 }

    private var first: InlineWords4
    private var second: InlineWords4

    init?(_ bytes: RawSpan) {
        guard bytes.byteCount == 64, let first = InlineWords4(bytes.extracting(0..<32)),
            let second = InlineWords4(bytes.extracting(32..<64))
        else { return nil }
        self.first = first
        self.second = second
    }

    public func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes(of: self) { bytes throws(E) -> R in try body(RawSpan(_unsafeBytes: bytes)) }
    }
}
