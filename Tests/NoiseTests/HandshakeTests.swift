import Testing

@testable import Noise

@Suite struct HandshakeTests {
    @Test(arguments: HandshakeVector.all) func `the initiator writes and reads a vector`(vector: HandshakeVector) throws
    {
        let ends = try Ends(vector)
        var handshake = ends.initiate()
        #expect(handshake.write(vector.payload1) == vector.message1)
        var payload = Bytes()
        guard let keys = handshake.read(vector.message2, &payload) else {
            Issue.record("message 2 did not open")
            return
        }
        #expect(payload == vector.payload2)
        check(keys, against: vector, isInitiator: true)
    }

    @Test(arguments: HandshakeVector.all) func `the responder reads and writes a vector`(vector: HandshakeVector) throws
    {
        let ends = try Ends(vector)
        #expect(ends.responderKey.publicKey == PublicKey(vector.responderPublic))
        guard var handshake = ends.respond(to: vector.message1) else {
            Issue.record("message 1 did not open")
            return
        }
        #expect(handshake.initiator == ends.initiatorKey.publicKey)
        #expect(handshake.read(vector.message1) == vector.payload1)
        var message = Bytes()
        guard let keys = handshake.write(vector.payload2, ends, &message) else {
            Issue.record("message 2 was not written")
            return
        }
        #expect(message == vector.message2)
        check(keys, against: vector, isInitiator: false)
    }

    private func check(_ keys: consuming TransportKeys, against vector: HandshakeVector, isInitiator: Bool) {
        #expect(keys.handshakeHash.withBytes { copy($0) } == vector.handshakeHash)
        keys.split { sending, receiving in
            for message in vector.transport {
                if message.fromInitiator == isInitiator {
                    #expect(sending.seal(message.payload, counter: message.counter) == message.sealed)
                } else {
                    #expect(receiving.open(message.sealed, counter: message.counter) == message.payload)
                }
            }
        }
    }

    @Test func `fresh keys and a PSK of their own agree`() throws {
        let ends = Ends(
            initiatorKey: .generate(),
            responderKey: .generate(),
            presharedKey: .generate(),
            initiatorRandom: .system,
            responderRandom: .system
        )
        var initiator = ends.initiate()
        let written = initiator.write([1, 2, 3])
        let message1 = try #require(written)
        guard var responder = ends.respond(to: message1) else {
            Issue.record("message 1 did not open")
            return
        }
        #expect(responder.read(message1) == [1, 2, 3])
        var message2 = Bytes()
        var payload2 = Bytes()
        guard let theirs = responder.write([4, 5], ends, &message2), let ours = initiator.read(message2, &payload2)
        else {
            Issue.record("message 2 did not come through")
            return
        }
        #expect(payload2 == [4, 5])
        let sameSession = ours.handshakeHash == theirs.handshakeHash
        #expect(sameSession)
        #expect(theirs.receiving.open(ours.sending.seal([6], counter: 7), counter: 7) == [6])
        #expect(ours.receiving.open(theirs.sending.seal([8], counter: 9), counter: 9) == [8])
        #expect(ours.receiving.open(ours.sending.seal([6], counter: 7), counter: 7) == nil, "directions differ in key")
    }

    @Test func `a handshake leaves two keys behind, and then nothing`() throws {
        let vector = HandshakeVector.published
        let ends = try Ends(vector)
        do {
            var initiator = ends.initiate()
            _ = initiator.write(vector.payload1)
            var payload = Bytes()
            let keys = initiator.read(vector.message2, &payload)
            let opened = keys != nil
            #expect(opened)
            #expect(ends.initiatorArena.liveSecrets == 2, "the handshake's own secrets are wiped before it ends")

            guard var responder = ends.respond(to: vector.message1) else {
                Issue.record("message 1 did not open")
                return
            }
            _ = responder.read(vector.message1)
            var message2 = Bytes()
            let theirs = responder.write(vector.payload2, ends, &message2)
            let wrote = theirs != nil
            #expect(wrote)
            #expect(ends.responderArena.liveSecrets == 2)
            _ = consume keys
            _ = consume theirs
        }
        #expect(ends.initiatorArena.liveSecrets == 0)
        #expect(ends.responderArena.liveSecrets == 0)
    }
}
