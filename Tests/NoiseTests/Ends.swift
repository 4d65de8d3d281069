import Testing

@testable import Noise

/// Both ends of a handshake, each with an arena of its own.
struct Ends {
    let initiatorKey: StaticKeyPair
    let responderKey: StaticKeyPair
    let presharedKey: PresharedKey
    var initiatorRandom: RandomSource
    var responderRandom: RandomSource
    var prologue = Bytes("kl-tunnel v1".utf8)
    let initiatorArena = SecretArena()
    let responderArena = SecretArena()

    init(
        initiatorKey: StaticKeyPair,
        responderKey: StaticKeyPair,
        presharedKey: PresharedKey,
        initiatorRandom: RandomSource,
        responderRandom: RandomSource
    ) {
        self.initiatorKey = initiatorKey
        self.responderKey = responderKey
        self.presharedKey = presharedKey
        self.initiatorRandom = initiatorRandom
        self.responderRandom = responderRandom
    }

    /// The keys of `vector`; every handshake gets its ephemeral keys.
    init(_ vector: HandshakeVector) throws {
        self.init(
            initiatorKey: try #require(StaticKeyPair(vector.initiatorStatic)),
            responderKey: try #require(StaticKeyPair(vector.responderStatic)),
            presharedKey: try #require(PresharedKey(vector.presharedKey)),
            initiatorRandom: repeating(vector.initiatorEphemeral),
            responderRandom: repeating(vector.responderEphemeral)
        )
        prologue = vector.prologue
    }

    var withSystemRandom: Ends {
        var ends = self
        ends.initiatorRandom = .system
        ends.responderRandom = .system
        return ends
    }

    func initiate(staticKey: StaticKeyPair? = nil, responder: PublicKey? = nil) -> InitiatorHandshake {
        InitiatorHandshake(
            staticKey: staticKey ?? initiatorKey,
            responder: responder ?? responderKey.publicKey,
            presharedKey: presharedKey,
            prologue: prologue.span.bytes,
            random: initiatorRandom,
            arena: initiatorArena
        )
    }

    func respond(to message1: Bytes) -> ResponderHandshake? {
        ResponderHandshake(
            message1: message1.span.bytes,
            staticKey: responderKey,
            prologue: prologue.span.bytes,
            arena: responderArena
        )
    }
}

/// The handshakes as functions of arrays. Whatever fails must have written nothing.
extension InitiatorHandshake {
    mutating func write(_ payload: Bytes, capacity: Int = 2_000) -> Bytes? {
        let message = writing(capacity: capacity) { writeMessage1(payload: payload.span.bytes, into: &$0) }
        #expect(message.result || message.bytes.isEmpty)
        return message.result ? message.bytes : nil
    }

    mutating func read(_ message: Bytes, _ payload: inout Bytes, capacity: Int = 2_000) -> TransportKeys? {
        writing(&payload, capacity: capacity) { readMessage2(message.span.bytes, payload: &$0) }
    }
}

extension ResponderHandshake {
    mutating func read(_ message1: Bytes, capacity: Int = 2_000) -> Bytes? {
        let payload = writing(capacity: capacity) { readPayload(message1.span.bytes, into: &$0) }
        #expect(payload.result || payload.bytes.isEmpty)
        return payload.result ? payload.bytes : nil
    }

    mutating func write(
        _ payload: Bytes,
        _ ends: Ends,
        _ message2: inout Bytes,
        capacity: Int = 2_000
    ) -> TransportKeys? {
        writing(&message2, capacity: capacity) {
            writeMessage2(
                presharedKey: ends.presharedKey,
                payload: payload.span.bytes,
                random: ends.responderRandom,
                into: &$0
            )
        }
    }
}
