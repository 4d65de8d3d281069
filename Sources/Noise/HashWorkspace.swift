import CSodium

/// BLAKE2b-512, HMAC and HKDF over secrets (Noise §4.3, §5.1), in locked memory from the first byte to the last.
///
/// libsodium has no HMAC-BLAKE2b, so RFC 2104 is built here on its streaming BLAKE2b. That state must be aligned to 64 bytes
/// and holds what was hashed, so it is kept here as well. One workspace serves all handshakes of an arena: nothing in it
/// outlives the call that filled it.
final class HashWorkspace {
    static let hashByteCount = 64
    private static let blockByteCount = 128
    private static let outputCount = 3

    /// Offsets, all multiples of 64.
    private static let blockOffset = 384
    private static let innerOffset = blockOffset + blockByteCount
    private static let temporaryKeyOffset = innerOffset + hashByteCount
    private static let outputsOffset = temporaryKeyOffset + hashByteCount
    private static let byteCount = outputsOffset + outputCount * hashByteCount

    private let memory = LockedBytes(byteCount: byteCount)
    /// Swift doesn't import the type, because C aligns it more strictly than Swift would.
    private let state: OpaquePointer

    init() {
        precondition(crypto_generichash_blake2b_statebytes() <= Self.blockOffset, "BLAKE2b's state has outgrown us")
        state = OpaquePointer(memory.base)
    }

    /// `output` = BLAKE2b-512(first ‖ second), 64 bytes; `output` may overlap `first`.
    func hash(_ first: UnsafeRawBufferPointer, _ second: RawSpan, into output: UnsafeMutableRawBufferPointer) {
        precondition(output.count == Self.hashByteCount, "BLAKE2b-512 has 64 bytes")
        start()
        update(first)
        second.withUnsafeBytes { update($0) }
        finish(into: output.start)
        wipe()
    }

    /// HMAC-BLAKE2b (RFC 2104): `output` gets 64 bytes. `key` has at most 128 bytes; ours have 64.
    func hmac(key: RawSpan, _ message: RawSpan, into output: UnsafeMutableRawPointer) {
        key.withUnsafeBytes { key in
            message.withUnsafeBytes { message in hmac(key: key, message, number: nil, into: output) }
        }
        wipe()
    }

    /// HKDF of Noise §4.3: `body` gets three outputs of 64 bytes, valid while it runs. A caller that needs only two uses the
    /// first two.
    func hkdf<R: ~Copyable>(
        chainingKey: RawSpan,
        input: RawSpan,
        _ body: (_ output1: RawSpan, _ output2: RawSpan, _ output3: RawSpan) -> R
    ) -> R {
        defer { wipe() }
        let temporaryKey = part(at: Self.temporaryKeyOffset, Self.hashByteCount)
        let output1 = part(at: Self.outputsOffset, Self.hashByteCount)
        let output2 = part(at: Self.outputsOffset + Self.hashByteCount, Self.hashByteCount)
        let output3 = part(at: Self.outputsOffset + 2 * Self.hashByteCount, Self.hashByteCount)

        chainingKey.withUnsafeBytes { chainingKey in
            input.withUnsafeBytes { input in
                hmac(key: chainingKey, input, number: nil, into: pointer(Self.temporaryKeyOffset))
            }
        }
        hmac(key: temporaryKey, .empty, number: 1, into: pointer(Self.outputsOffset))
        hmac(key: temporaryKey, output1, number: 2, into: pointer(Self.outputsOffset + Self.hashByteCount))
        hmac(key: temporaryKey, output2, number: 3, into: pointer(Self.outputsOffset + 2 * Self.hashByteCount))
        return body(RawSpan(_unsafeBytes: output1), RawSpan(_unsafeBytes: output2), RawSpan(_unsafeBytes: output3))
    }

    /// H((key ⊕ 5c…) ‖ H((key ⊕ 36…) ‖ message ‖ number)).
    private func hmac(
        key: UnsafeRawBufferPointer,
        _ message: UnsafeRawBufferPointer,
        number: UInt8?,
        into output: UnsafeMutableRawPointer
    ) {
        let inner = part(at: Self.innerOffset, Self.hashByteCount)
        start()
        updateWithBlock(key, xor: 0x36)
        update(message)
        if let number { withUnsafeBytes(of: number) { update($0) } }
        finish(into: pointer(Self.innerOffset).assumingMemoryBound(to: UInt8.self))
        start()
        updateWithBlock(key, xor: 0x5c)
        update(inner)
        finish(into: output.assumingMemoryBound(to: UInt8.self))
    }

    private func updateWithBlock(_ key: UnsafeRawBufferPointer, xor pad: UInt8) {
        precondition(key.count <= Self.blockByteCount, "a longer key would have to be hashed first")
        let block = UnsafeMutableRawBufferPointer(start: pointer(Self.blockOffset), count: Self.blockByteCount)
        for index in block.indices { block[index] = index < key.count ? key[index] ^ pad : pad }
        update(UnsafeRawBufferPointer(block))
    }

    private func start() {
        _ = crypto_generichash_blake2b_init(state, nil, 0, Self.hashByteCount)
    }

    private func update(_ bytes: UnsafeRawBufferPointer) {
        _ = crypto_generichash_blake2b_update(state, bytes.start, UInt64(bytes.count))
    }

    private func finish(into output: UnsafeMutablePointer<UInt8>) {
        _ = crypto_generichash_blake2b_final(state, output, Self.hashByteCount)
    }

    private func wipe() {
        sodium_memzero(memory.base, Self.byteCount)
    }

    private func pointer(_ offset: Int) -> UnsafeMutableRawPointer {
        memory.base + offset
    }

    private func part(at offset: Int, _ count: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: pointer(offset), count: count)
    }
}
