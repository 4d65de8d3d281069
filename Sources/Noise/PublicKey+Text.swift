/// Public keys as people and `wg` write them.
extension PublicKey: CustomStringConvertible {
    /// Strict: accepts only the 44 characters that `wg pubkey` prints, and no other encoding of the same bytes.
    public init?(base64: String) {
        // A public key is no secret, so it may pass through a string.
        var words = InlineWords4()
        var text = base64
        let isKey = text.withUTF8 { utf8 in
            words.mutate { Base64.decodeKey(RawSpan(_unsafeElements: utf8), into: &$0) }
        }
        guard isKey else { return nil }
        self.init(words)
    }

    public var base64: String {
        withBytes { key in
            withUnsafeTemporaryAllocation(byteCount: Base64.keyTextCount + 1, alignment: 1) { buffer in
                var text = MutableRawSpan(_unsafeBytes: buffer)
                Base64.encodeKey(key, into: &text)
                return String(decoding: buffer.prefix(Base64.keyTextCount), as: UTF8.self)
            }
        }
    }

    public var description: String { base64 }

    /// `3Jx5…4Q=`, for people: enough to tell two keys apart on a screen, not enough to trust one.
    public var abbreviated: String {
        let text = base64
        return "\(text.prefix(4))…\(text.suffix(3))"
    }
}
