/// `ck`, `h` and `k` of Noise §5.2, for Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b alone.
///
/// The nonce is always 0 here, because each AEAD operation of this pattern follows a `MixKey`. To ensure this, a key is
/// erased with its first use.
struct SymmetricState: ~Copyable {
    private static let protocolName: StaticString = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b"

    private let arena: SecretArena
    private var chainingKey: Secret
    private var hash: Secret
    private var key: Secret?

    /// `Initialize` (§5.3): the protocol name, shorter than HASHLEN, is padded with zeros rather than hashed (§5.2).
    init(prologue: RawSpan, arena: SecretArena) {
        self.arena = arena
        chainingKey = arena.allocate(HashWorkspace.hashByteCount)
        let name = UnsafeRawBufferPointer(
            start: Self.protocolName.utf8Start,
            count: Self.protocolName.utf8CodeUnitCount
        )
        chainingKey.withMutableBytes { bytes in
            bytes.withUnsafeMutableBytes { $0.copyMemory(from: name) }
        }
        hash = chainingKey.copy(in: arena)
        key = nil
        mixHash(prologue)
    }

    private init(chainingKey: consuming Secret, hash: consuming Secret, arena: SecretArena) {
        self.arena = arena
        self.chainingKey = chainingKey
        self.hash = hash
        key = nil
    }

    /// A copy to work on, so that a message that doesn't open leaves this state as it was.
    borrowing func fork() -> SymmetricState {
        SymmetricState(chainingKey: chainingKey.copy(in: arena), hash: hash.copy(in: arena), arena: arena)
    }

    mutating func mixHash(_ data: RawSpan) {
        arena.workspace.hash(hash.bytes, data, into: hash.mutableBytes)
    }

    mutating func mixKey(_ inputKeyMaterial: RawSpan) {
        var nextChainingKey = arena.allocate(HashWorkspace.hashByteCount)
        var nextKey = arena.allocate(ChaChaPoly.keyByteCount)
        chainingKey.withBytes { chainingKey in
            arena.workspace.hkdf(chainingKey: chainingKey, input: inputKeyMaterial) { output1, output2, _ in
                nextChainingKey.copy(from: output1)
                nextKey.copy(from: output2.extracting(first: ChaChaPoly.keyByteCount))
            }
        }
        chainingKey = nextChainingKey
        key = consume nextKey
    }

    mutating func mixKeyAndHash(_ inputKeyMaterial: RawSpan) {
        var nextChainingKey = arena.allocate(HashWorkspace.hashByteCount)
        var temporaryHash = arena.allocate(HashWorkspace.hashByteCount)
        var nextKey = arena.allocate(ChaChaPoly.keyByteCount)
        chainingKey.withBytes { chainingKey in
            arena.workspace.hkdf(chainingKey: chainingKey, input: inputKeyMaterial) { output1, output2, output3 in
                nextChainingKey.copy(from: output1)
                temporaryHash.copy(from: output2)
                nextKey.copy(from: output3.extracting(first: ChaChaPoly.keyByteCount))
            }
        }
        chainingKey = nextChainingKey
        temporaryHash.withBytes { mixHash($0) }
        key = consume nextKey
    }

    /// The AEAD's additional data is `h` before the ciphertext is mixed in. `output` has room for 16 bytes more than
    /// `plaintext`.
    mutating func encryptAndHash(_ plaintext: RawSpan, into output: inout OutputRawSpan) {
        let start = output.byteCount
        guard let key = key.take() else { preconditionFailure("each AEAD follows a MixKey") }
        hash.withBytes { hash in
            ChaChaPoly.seal(plaintext, additionalData: hash, key: key, counter: 0, into: &output)
        }
        mixHash(output.bytes.extracting(start..<output.byteCount))
    }

    /// false: not authentic, or `output` has too little room. `h` and `output` are then as they were, but the key is gone.
    mutating func decryptAndHash(_ ciphertext: RawSpan, into output: inout OutputRawSpan) -> Bool {
        guard let key = key.take() else { preconditionFailure("each AEAD follows a MixKey") }
        let isAuthentic = hash.withBytes { hash in
            ChaChaPoly.open(ciphertext, additionalData: hash, key: key, counter: 0, into: &output)
        }
        if isAuthentic { mixHash(ciphertext) }
        return isAuthentic
    }

    /// `Split()`: the initiator sends with the first key, the responder with the second.
    consuming func split(isInitiator: Bool) -> TransportKeys? {
        var first = arena.allocate(ChaChaPoly.keyByteCount)
        var second = arena.allocate(ChaChaPoly.keyByteCount)
        chainingKey.withBytes { chainingKey in
            arena.workspace.hkdf(chainingKey: chainingKey, input: RawSpan()) { output1, output2, _ in
                first.copy(from: output1.extracting(first: ChaChaPoly.keyByteCount))
                second.copy(from: output2.extracting(first: ChaChaPoly.keyByteCount))
            }
        }
        guard let handshakeHash = hash.withBytes({ HandshakeHash($0) }) else { return nil }
        return isInitiator
            ? TransportKeys(
                sending: CipherState(key: first),
                receiving: CipherState(key: second),
                handshakeHash: handshakeHash
            )
            : TransportKeys(
                sending: CipherState(key: second),
                receiving: CipherState(key: first),
                handshakeHash: handshakeHash
            )
    }
}
