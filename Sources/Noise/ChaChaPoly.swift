import CSodium

/// ChaCha20-Poly1305 (RFC 8439) as Noise §12.3 has it: nonce = 4 zero bytes ‖ counter, little-endian.
///
/// Nothing here allocates, and the nonce, which is no secret, is the only thing on the stack.
enum ChaChaPoly {
    static let keyByteCount = 32
    static let tagByteCount = 16

    /// Noise §5.1 keeps 2^64 − 1 for rekeying.
    static let reservedCounter = UInt64.max

    /// Seals `bytes` from `offset` on, plaintext and 16 bytes of room for the tag, where they lie.
    static func sealInPlace(_ bytes: inout MutableRawSpan, from offset: Int, key: borrowing Secret, counter: UInt64) {
        precondition(offset >= 0 && bytes.byteCount - offset >= tagByteCount, "there is no room for the tag")
        bytes.withUnsafeMutableBytes { bytes in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: bytes[offset...])
            let plaintext = UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count - tagByteCount)])
            seal(plaintext, additionalData: .empty, key: key, counter: counter, into: bytes.start)
        }
    }

    /// Appends ciphertext and tag to `output`, which has room for 16 bytes more than `plaintext`.
    static func seal(
        _ plaintext: RawSpan,
        additionalData: RawSpan,
        key: borrowing Secret,
        counter: UInt64,
        into output: inout OutputRawSpan
    ) {
        let count = plaintext.byteCount + tagByteCount
        precondition(output.freeCapacity >= count, "there is no room for the ciphertext")
        plaintext.withUnsafeBytes { plaintext in
            additionalData.withUnsafeBytes { additionalData in
                output.withUnsafeMutableBytes { buffer, initializedCount in
                    let tail = UnsafeMutableRawBufferPointer(rebasing: buffer[initializedCount...])
                    seal(plaintext, additionalData: additionalData, key: key, counter: counter, into: tail.start)
                    initializedCount += count
                }
            }
        }
    }

    private static func seal(
        _ plaintext: UnsafeRawBufferPointer,
        additionalData: UnsafeRawBufferPointer,
        key: borrowing Secret,
        counter: UInt64,
        into output: UnsafeMutablePointer<UInt8>
    ) {
        precondition(counter != reservedCounter, "the last nonce is reserved")
        withNonce(counter) { nonce in
            _ = crypto_aead_chacha20poly1305_ietf_encrypt(
                output,
                nil,
                plaintext.start,
                UInt64(plaintext.count),
                additionalData.start,
                UInt64(additionalData.count),
                nil,
                nonce,
                key.bytes.start
            )
        }
    }

    /// Appends the plaintext of `sealed` to `output`. false: it isn't authentic, or too short, or there is no room;
    /// `output` is then as it was. libsodium checks the tag before it decrypts: no unauthentic plaintext ever exists.
    static func open(
        _ sealed: RawSpan,
        additionalData: RawSpan,
        key: borrowing Secret,
        counter: UInt64,
        into output: inout OutputRawSpan
    ) -> Bool {
        let count = sealed.byteCount - tagByteCount
        guard count >= 0, output.freeCapacity >= count, counter != reservedCounter else { return false }
        return sealed.withUnsafeBytes { sealed in
            additionalData.withUnsafeBytes { additionalData in
                output.withUnsafeMutableBytes { buffer, initializedCount in
                    let tail = UnsafeMutableRawBufferPointer(rebasing: buffer[initializedCount...])
                    let isAuthentic = withNonce(counter) { nonce in
                        crypto_aead_chacha20poly1305_ietf_decrypt(
                            tail.start,
                            nil,
                            nil,
                            sealed.start,
                            UInt64(sealed.count),
                            additionalData.start,
                            UInt64(additionalData.count),
                            nonce,
                            key.bytes.start
                        ) == 0
                    }
                    if isAuthentic { initializedCount += count }
                    return isAuthentic
                }
            }
        }
    }

    private static func withNonce<R>(_ counter: UInt64, _ body: (UnsafePointer<UInt8>) -> R) -> R {
        // Three words of four bytes: a UInt32 beside a UInt64 would have padding between them.
        var nonce = (
            UInt32(0),
            UInt32(truncatingIfNeeded: counter).littleEndian,
            UInt32(truncatingIfNeeded: counter >> 32).littleEndian
        )
        return withUnsafeBytes(of: &nonce) { body($0.start) }
    }
}
