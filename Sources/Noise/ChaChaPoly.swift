import CSodium

/// ChaCha20-Poly1305 (RFC 8439) as used in Noise §12.3: nonce = 4 zero bytes ‖ counter, little-endian.
///
/// Nothing here allocates. What is derived from a key on the way (Poly1305's key, key stream, the tag of an unauthentic
/// message) is erased.
enum ChaChaPoly {
    static let keyByteCount = 32
    static let tagByteCount = 16

    /// Noise §5.1 keeps 2^64 − 1 for rekeying.
    static let reservedCounter = UInt64.max

    /// Seals in place the plaintext at `range` of `bytes`; 16 bytes of room for the tag follow it.
    ///
    /// Bytes before the plaintext keep their values. Up to `roomBehind` bytes behind it are overwritten.
    static func sealInPlace(
        _ bytes: inout MutableRawSpan,
        at range: Range<Int>,
        key: borrowing Secret,
        counter: UInt64
    ) {
        precondition(
            range.lowerBound >= 0 && bytes.byteCount - range.upperBound >= tagByteCount,
            "there is no room for the tag"
        )
        bytes.withUnsafeMutableBytes { bytes in
            if isQuickerInOneRun(range.count), range.lowerBound >= roomBefore,
                bytes.count - range.upperBound >= roomBehind
            {
                return sealInOneRun(bytes, at: range, key: key, counter: counter)
            }
            let plaintext = UnsafeRawBufferPointer(rebasing: bytes[range])
            let output = UnsafeMutableRawBufferPointer(rebasing: bytes[range.lowerBound...])
            seal(plaintext, additionalData: .empty, key: key, counter: counter, into: output.start)
        }
    }

    private static let blockByteCount = 64
    /// How much SIMD implementations of ChaCha20 produce at a time; they produce the rest block by block.
    private static let groupByteCount = 4 * blockByteCount
    /// Room for the rest of a group, or for the padding, the lengths that Poly1305 reads after the ciphertext, and the tag.
    static let roomBehind = groupByteCount
    static let roomBefore = blockByteCount

    private static func runByteCount(_ count: Int) -> Int {
        (blockByteCount + count + groupByteCount - 1) / groupByteCount * groupByteCount
    }

    /// Only then are there single blocks besides the first one, which one run avoids: whole groups leave none to save.
    private static func isQuickerInOneRun(_ count: Int) -> Bool { count % groupByteCount != 0 }

    /// RFC 8439 §2.8 without additional data, as libsodium's `crypto_aead_` functions do it, but in another order. Those
    /// produce the first block of the key stream, which holds Poly1305's key, by itself, then the whole groups, then the rest
    /// block by block. Here everything is one run of whole groups, which takes a quarter less time for a message of 1,440
    /// bytes. †
    ///
    /// The first block is produced over the 64 bytes before the plaintext, which are restored; the rest of the last group
    /// falls behind the message, where it is not used.
    private static func sealInOneRun(
        _ bytes: UnsafeMutableRawBufferPointer,
        at range: Range<Int>,
        key: borrowing Secret,
        counter: UInt64
    ) {
        precondition(counter != reservedCounter, "the last nonce is reserved")
        let run = UnsafeMutableRawBufferPointer(rebasing: bytes[(range.lowerBound - blockByteCount)...])
        let text = UnsafeMutableRawBufferPointer(rebasing: bytes[range.lowerBound...])
        let size = runByteCount(range.count)
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: blockByteCount / 8) { block in
            UnsafeMutableRawBufferPointer(block).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: run[..<blockByteCount])
            )
            withNonce(counter) { nonce in
                _ = crypto_stream_chacha20_ietf_xor_ic(run.start, run.start, UInt64(size), nonce, 0, key.bytes.start)
            }
            for word in block.indices {
                let now = run.loadUnaligned(fromByteOffset: 8 * word, as: UInt64.self)
                run.storeBytes(of: block[word], toByteOffset: 8 * word, as: UInt64.self)
                block[word] ^= now
            }
            // Zeros up to a whole 16 bytes, then the lengths of the additional data and of the ciphertext.
            let padded = (range.count + tagByteCount - 1) / tagByteCount * tagByteCount
            for at in range.count..<(padded + 8) { text[at] = 0 }
            text.storeBytes(of: UInt64(range.count).littleEndian, toByteOffset: padded + 8, as: UInt64.self)
            let tag = text.start + padded + tagByteCount
            let tagKey = UnsafeMutableRawBufferPointer(block).start
            _ = crypto_onetimeauth_poly1305(tag, text.start, UInt64(padded + tagByteCount), tagKey)
            sodium_memzero(tagKey, blockByteCount)
            (text.start + range.count).update(from: tag, count: tagByteCount)
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

    /// Appends the plaintext of `sealed` to `output`. false: `sealed` isn't authentic, is too short, or finds no room;
    /// `output` is then as it was. The tag is checked before anything is decrypted: no unauthentic plaintext ever exists.
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
                    if additionalData.isEmpty, isOpenedInOneRun(count), tail.count >= runByteCount(count) {
                        let isAuthentic = openInOneRun(sealed, key: key, counter: counter, into: tail)
                        if isAuthentic { initializedCount += count }
                        return isAuthentic
                    }
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

    /// In longer messages, the extra pass over the key stream costs more than one run saves.
    private static func isOpenedInOneRun(_ count: Int) -> Bool { count <= 2_048 && isQuickerInOneRun(count) }

    /// The room that opens a message of `byteCount` bytes, tag included, fastest: for the plaintext, and for the key stream
    /// of one run.
    static func roomToOpen(_ byteCount: Int) -> Int {
        let count = max(0, byteCount - tagByteCount)
        return isOpenedInOneRun(count) ? runByteCount(count) : count
    }

    /// As `sealInOneRun`: the whole key stream is produced first, where the plaintext will be, and no plaintext before the
    /// tag has been checked.
    private static func openInOneRun(
        _ sealed: UnsafeRawBufferPointer,
        key: borrowing Secret,
        counter: UInt64,
        into output: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let count = sealed.count - tagByteCount
        let size = runByteCount(count)
        withNonce(counter) { nonce in
            _ = crypto_stream_chacha20_ietf(output.start, UInt64(size), nonce, key.bytes.start)
        }
        let isAuthentic = withUnsafeTemporaryAllocation(of: crypto_onetimeauth_poly1305_state.self, capacity: 1) {
            state in
            guard let state = state.baseAddress else { return false }
            // Zeros up to a whole 16 bytes, then the lengths of the additional data and of the ciphertext.
            var end = (UInt64(0), UInt64(0), UInt64(0), UInt64(count).littleEndian)
            return withUnsafeMutableBytes(of: &end) { end in
                let padding = -count & (tagByteCount - 1)
                _ = crypto_onetimeauth_poly1305_init(state, output.start)
                _ = crypto_onetimeauth_poly1305_update(state, sealed.start, UInt64(count))
                let rest = UnsafeRawBufferPointer(rebasing: end[(tagByteCount - padding)...])
                _ = crypto_onetimeauth_poly1305_update(state, rest.start, UInt64(rest.count))
                // This call erases the state.
                _ = crypto_onetimeauth_poly1305_final(state, end.start)
                let isAuthentic = crypto_verify_16(end.start, sealed.start + count) == 0
                sodium_memzero(end.start, end.count)
                return isAuthentic
            }
        }
        guard isAuthentic else {
            sodium_memzero(output.start, size)
            return false
        }
        xor(UnsafeRawBufferPointer(rebasing: sealed[..<count]), with: blockByteCount, in: output)
        sodium_memzero(output.start + count, size - count)
        return true
    }

    /// Writes `bytes` ⊕ the bytes `distance` further on in `output` to the start of `output`. `distance` is at least a
    /// vector's size.
    private static func xor(
        _ bytes: UnsafeRawBufferPointer,
        with distance: Int,
        in output: UnsafeMutableRawBufferPointer
    ) {
        typealias Vector = SIMD4<UInt64>
        let size = MemoryLayout<Vector>.size
        var at = 0
        while at + size <= bytes.count {
            let one = bytes.loadUnaligned(fromByteOffset: at, as: Vector.self)
            let other = output.loadUnaligned(fromByteOffset: distance + at, as: Vector.self)
            output.storeBytes(of: one ^ other, toByteOffset: at, as: Vector.self)
            at += size
        }
        while at < bytes.count {
            output[at] = bytes[at] ^ output[distance + at]
            at += 1
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
