/// The initiator's side of one handshake (Noise §7.5, IK with psk2), from message 1 to message 2.
///
/// ```
///            writeMessage1 ok          readMessage2 opens
///   ready ───────────────────▶ waiting ───────────────────▶ ended, secrets erased
///     │ all-zero DH               │ ▲
///     ▼                           └─┘ anything else: as if it had not come
///   ended
/// ```
///
/// A retry is a new handshake, with a new ephemeral key.
public struct InitiatorHandshake: ~Copyable {
    /// e 32, s 32 + 16, payload + 16.
    public static let message1Overhead = 96
    /// e 32, payload + 16.
    public static let message2Overhead = 48

    private let staticKey: StaticKeyPair
    private let responder: PublicKey
    private let presharedKey: PresharedKey
    private let arena: SecretArena
    private var ready: State?
    private var waiting: State?

    private struct State: ~Copyable {
        let ephemeral: Secret
        var symmetric: SymmetricState
    }

    /// Makes the ephemeral key.
    public init(
        staticKey: StaticKeyPair,
        responder: PublicKey,
        presharedKey: PresharedKey,
        prologue: RawSpan,
        random: RandomSource,
        arena: SecretArena
    ) {
        self.staticKey = staticKey
        self.responder = responder
        self.presharedKey = presharedKey
        self.arena = arena
        var ephemeral = arena.allocate(32)
        ephemeral.withMutableBytes { random.fill(&$0) }
        var symmetric = SymmetricState(prologue: prologue, arena: arena)
        // The pre-message: the initiator knows the responder's static key beforehand.
        responder.withBytes { symmetric.mixHash($0) }
        ready = State(ephemeral: ephemeral, symmetric: symmetric)
        waiting = nil
    }

    /// Appends `e ‖ encrypted s ‖ encrypted payload`, 96 bytes more than the payload.
    ///
    /// false: the responder's key is of low order (its Diffie-Hellman is all zero), the message was written before, or
    /// `output` has too little room; `output` is then as it was.
    public mutating func writeMessage1(payload: RawSpan, into output: inout OutputRawSpan) -> Bool {
        guard output.freeCapacity >= payload.byteCount + Self.message1Overhead, var state = ready.take() else {
            return false
        }
        // Both Diffie-Hellmans come first, so that nothing has been written when one of them fails.
        guard let ephemeral = state.ephemeral.withBytes({ Curve25519.publicKey(of: $0) }),
            let es = state.ephemeral.withBytes({ Curve25519.sharedSecret($0, responder, in: arena) }),
            let ss = staticKey.withPrivateBytes({ Curve25519.sharedSecret($0, responder, in: arena) })
        else { return false }

        // e: with a PSK in the pattern it is mixed into the key as well (§9.2).
        ephemeral.withBytes { ephemeral in
            ephemeral.append(to: &output)
            state.symmetric.mixHash(ephemeral)
            state.symmetric.mixKey(ephemeral)
        }
        // es, s
        es.withBytes { state.symmetric.mixKey($0) }
        staticKey.publicKey.withBytes { state.symmetric.encryptAndHash($0, into: &output) }
        // ss, payload
        ss.withBytes { state.symmetric.mixKey($0) }
        state.symmetric.encryptAndHash(payload, into: &output)
        waiting = consume state
        return true
    }

    /// Opens `e ‖ encrypted payload` and appends the payload to `payload`.
    ///
    /// nil: it doesn't open, and this handshake goes on waiting exactly as before, so that a forged response changes
    /// nothing (protocol §4.5). Once it has opened, all secrets of the handshake are erased, and nothing opens again.
    public mutating func readMessage2(_ message: RawSpan, payload: inout OutputRawSpan) -> TransportKeys? {
        guard message.byteCount >= Self.message2Overhead, let state = waiting.take() else { return nil }
        guard let keys = open(message, state, payload: &payload) else {
            waiting = consume state
            return nil
        }
        return keys
    }

    private borrowing func open(
        _ message: RawSpan,
        _ state: borrowing State,
        payload: inout OutputRawSpan
    ) -> TransportKeys? {
        guard let ephemeral = PublicKey(message.extracting(first: PublicKey.byteCount)),
            // ee, se
            let ee = state.ephemeral.withBytes({ Curve25519.sharedSecret($0, ephemeral, in: arena) }),
            let se = staticKey.withPrivateBytes({ Curve25519.sharedSecret($0, ephemeral, in: arena) })
        else { return nil }
        var symmetric = state.symmetric.fork()
        ephemeral.withBytes { ephemeral in
            symmetric.mixHash(ephemeral)
            symmetric.mixKey(ephemeral)
        }
        ee.withBytes { symmetric.mixKey($0) }
        se.withBytes { symmetric.mixKey($0) }
        presharedKey.withBytes { symmetric.mixKeyAndHash($0) }
        let ciphertext = message.extracting(PublicKey.byteCount..<message.byteCount)
        guard symmetric.decryptAndHash(ciphertext, into: &payload) else { return nil }
        return symmetric.split(isInitiator: true)
    }
}
