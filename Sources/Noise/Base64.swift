import CSodium

/// Keys as text, the way `wg` writes them: 44 characters of base64 with padding, the unused bits of the last group zero.
///
/// libsodium's functions run in constant time and refuse whatever is not canonical, with one exception: 1.0.18 takes some
/// bytes above 127 as digits, so those are refused here.
enum Base64 {
    static let keyByteCount = 32
    /// 44 characters.
    static let keyTextCount = 44

    /// Writes the 32 bytes that `text` encodes. false: `text` is not the canonical encoding of 32 bytes; `key` may be partly
    /// overwritten.
    static func decodeKey(_ text: RawSpan, into key: inout MutableRawSpan) -> Bool {
        guard text.byteCount == keyTextCount, key.byteCount == keyByteCount else { return false }
        Sodium.initialize()
        return text.withUnsafeBytes { text in
            guard text.reduce(0, |) < 0x80 else { return false }
            return key.withUnsafeMutableBytes { key in
                guard let characters = text.assumingMemoryBound(to: CChar.self).baseAddress else { return false }
                var count = 0
                let outcome = sodium_base642bin(
                    key.start,
                    key.count,
                    characters,
                    text.count,
                    nil,
                    &count,
                    nil,
                    sodium_base64_VARIANT_ORIGINAL
                )
                return outcome == 0 && count == keyByteCount
            }
        }
    }

    /// Writes 44 characters and a zero byte: `text` has 45 bytes.
    static func encodeKey(_ key: RawSpan, into text: inout MutableRawSpan) {
        precondition(key.byteCount == keyByteCount && text.byteCount == keyTextCount + 1, "not a key")
        Sodium.initialize()
        key.withUnsafeBytes { key in
            text.withUnsafeMutableBytes { text in
                guard let characters = text.assumingMemoryBound(to: CChar.self).baseAddress else { return }
                _ = sodium_bin2base64(
                    characters,
                    text.count,
                    key.start,
                    key.count,
                    sodium_base64_VARIANT_ORIGINAL
                )
            }
        }
    }
}

extension Base64 {
    /// A secret key's text and a newline, in locked memory.
    static func line(of key: RawSpan) -> LockedBytes {
        var line = LockedBytes(byteCount: keyTextCount + 1)
        line.withMutableBytes { line in
            encodeKey(key, into: &line)
            line.storeBytes(of: UInt8(ascii: "\n"), toByteOffset: keyTextCount, as: UInt8.self)
        }
        return line
    }
}
