import Testing

@testable import Noise

/// Public keys with which every Diffie-Hellman comes out as zero: whoever sends one would know the keys that follow.
@Suite struct LowOrderKeyTests {
    static let keys = [
        hex("0000000000000000000000000000000000000000000000000000000000000000"),
        hex("0100000000000000000000000000000000000000000000000000000000000000"),
        // The two points of order 8.
        hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        // p − 1, p, p + 1
        hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        // p + 1 with the top bit, which X25519 ignores.
        hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ]

    @Test(arguments: keys) func `as the responder's key: no message 1`(key: Bytes) throws {
        let ends = try Ends(.published)
        let responder: PublicKey = try #require(PublicKey(key))
        var handshake = ends.initiate(responder: responder)
        #expect(handshake.write([]) == nil)
        #expect(handshake.write([]) == nil)
    }

    @Test(arguments: keys) func `as the initiator's ephemeral key: not read`(key: Bytes) throws {
        let ends = try Ends(.published)
        let opened = ends.respond(to: key + HandshakeVector.published.message1[32...]) != nil
        #expect(!opened)
        #expect(ends.responderArena.liveSecrets == 0)
    }

    @Test(arguments: keys) func `as the responder's ephemeral key: not read, and the genuine response still is`(
        key: Bytes
    ) throws {
        let vector = HandshakeVector.published
        let ends = try Ends(vector)
        var handshake = ends.initiate()
        _ = handshake.write(vector.payload1)
        var payload = Bytes()
        let forged = handshake.read(key + vector.message2[32...], &payload) != nil
        #expect(!forged)
        let genuine = handshake.read(vector.message2, &payload) != nil
        #expect(genuine)
    }

    /// An attacker can seal any 32 bytes as its static key; only "ss" shows what they are.
    @Test(arguments: keys) func `as the initiator's static key: named, but its payload doesn't open`(key: Bytes) throws
    {
        let ends = try Ends(.published)
        let ephemeral = StaticKeyPair.generate()
        var symmetric = SymmetricState(prologue: ends.prologue.span.bytes, arena: ends.initiatorArena)
        ends.responderKey.publicKey.withBytes { symmetric.mixHash($0) }
        ephemeral.publicKey.withBytes { symmetric.mixHash($0) }
        ephemeral.publicKey.withBytes { symmetric.mixKey($0) }
        let es = ephemeral.withPrivateBytes {
            Curve25519.sharedSecret($0, ends.responderKey.publicKey, in: ends.initiatorArena)
        }
        guard let es else {
            Issue.record("es is zero")
            return
        }
        es.withBytes { symmetric.mixKey($0) }
        let message = writing(capacity: 96) { output in
            ephemeral.publicKey.withBytes { $0.append(to: &output) }
            symmetric.encryptAndHash(key.span.bytes, into: &output)
            // What "ss" would be, were it not refused.
            symmetric.mixKey(Bytes(repeating: 0, count: 32).span.bytes)
            symmetric.encryptAndHash(RawSpan(), into: &output)
        }
        guard var handshake = ends.respond(to: message.bytes) else {
            Issue.record("the static key did not open")
            return
        }
        #expect(handshake.initiator == PublicKey(key))
        #expect(handshake.read(message.bytes) == nil)
    }
}
