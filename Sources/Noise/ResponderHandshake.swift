/// The responder's side of one handshake (Noise §7.5, IK with psk2).
///
/// ```
///   message 1 ──init──▶ initiator known ──readPayload──▶ authentic ──writeMessage2──▶ ended, secrets erased
///                es                          ss                        ee, se, psk
/// ```
///
/// Reading message 1 has two steps, so that an initiator whose key isn't accepted costs one Diffie-Hellman and one AEAD.
public struct ResponderHandshake: ~Copyable {
    public static let message1Overhead = InitiatorHandshake.message1Overhead
    public static let message2Overhead = InitiatorHandshake.message2Overhead

    /// e, encrypted s.
    private static let payloadOffset = PublicKey.byteCount + PublicKey.byteCount + ChaChaPoly.tagByteCount

    /// The key that message 1 claims to be from. It is proven only when `readPayload` has returned true.
    public let initiator: PublicKey

    private let staticKey: StaticKeyPair
    private let initiatorEphemeral: PublicKey
    private let arena: SecretArena
    private var known: SymmetricState?
    private var authentic: SymmetricState?

    /// Decrypts the initiator's static key. nil: the message doesn't open, is too short, or its ephemeral key is of low
    /// order.
    public init?(message1: RawSpan, staticKey: StaticKeyPair, prologue: RawSpan, arena: SecretArena) {
        guard message1.byteCount >= Self.message1Overhead,
            let ephemeral = PublicKey(message1.extracting(first: PublicKey.byteCount)),
            let es = staticKey.withPrivateBytes({ Curve25519.sharedSecret($0, ephemeral, in: arena) })
        else { return nil }
        var symmetric = SymmetricState(prologue: prologue, arena: arena)
        staticKey.publicKey.withBytes { symmetric.mixHash($0) }
        ephemeral.withBytes { ephemeral in
            symmetric.mixHash(ephemeral)
            symmetric.mixKey(ephemeral)
        }
        es.withBytes { symmetric.mixKey($0) }
        let sealedKey = message1.extracting(PublicKey.byteCount..<Self.payloadOffset)
        guard let initiator = PublicKey(writing: { symmetric.decryptAndHash(sealedKey, into: &$0) }) else {
            return nil
        }
        self.initiator = initiator
        self.staticKey = staticKey
        self.arena = arena
        initiatorEphemeral = ephemeral
        known = consume symmetric
        authentic = nil
    }

    /// Opens the payload of the message that `init` was given, and appends it to `payload`. Success authenticates the
    /// initiator.
    ///
    /// false: it doesn't open, or `payload` has too little room; the state is then as it was.
    public mutating func readPayload(_ message1: RawSpan, into payload: inout OutputRawSpan) -> Bool {
        guard message1.byteCount >= Self.message1Overhead,
            let ss = staticKey.withPrivateBytes({ Curve25519.sharedSecret($0, initiator, in: arena) }),
            let before = known.take()
        else { return false }
        var symmetric = before.fork()
        ss.withBytes { symmetric.mixKey($0) }
        let ciphertext = message1.extracting(Self.payloadOffset..<message1.byteCount)
        guard symmetric.decryptAndHash(ciphertext, into: &payload) else {
            known = consume before
            return false
        }
        authentic = consume symmetric
        return true
    }

    /// Appends `e ‖ encrypted payload`, 48 bytes more than the payload, and ends the handshake: its secrets are erased.
    ///
    /// nil: `readPayload` has not succeeded, a Diffie-Hellman is all zero, or `output` has too little room; `output` is
    /// then as it was.
    public mutating func writeMessage2(
        presharedKey: PresharedKey,
        payload: RawSpan,
        random: RandomSource,
        into output: inout OutputRawSpan
    ) -> TransportKeys? {
        guard output.freeCapacity >= payload.byteCount + Self.message2Overhead, var symmetric = authentic.take() else {
            return nil
        }
        var ephemeralSecret = arena.allocate(32)
        ephemeralSecret.withMutableBytes { random.fill(&$0) }
        guard let ephemeral = ephemeralSecret.withBytes({ Curve25519.publicKey(of: $0) }),
            let ee = ephemeralSecret.withBytes({ Curve25519.sharedSecret($0, initiatorEphemeral, in: arena) }),
            let se = ephemeralSecret.withBytes({ Curve25519.sharedSecret($0, initiator, in: arena) })
        else { return nil }

        // e: with a PSK in the pattern it is mixed into the key as well (§9.2).
        ephemeral.withBytes { ephemeral in
            ephemeral.append(to: &output)
            symmetric.mixHash(ephemeral)
            symmetric.mixKey(ephemeral)
        }
        ee.withBytes { symmetric.mixKey($0) }
        se.withBytes { symmetric.mixKey($0) }
        presharedKey.withBytes { symmetric.mixKeyAndHash($0) }
        symmetric.encryptAndHash(payload, into: &output)
        return symmetric.split(isInitiator: false)
    }
}
