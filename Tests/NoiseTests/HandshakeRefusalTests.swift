import Testing

@testable import Noise

/// What doesn't open changes nothing: after each refusal the genuine message still does (protocol §3).
@Suite struct HandshakeRefusalTests {
    static let vector = HandshakeVector.published

    /// Each byte of `message` changed, by a low bit and by the top one, which X25519 itself would ignore in a key.
    static func corruptions(of message: Bytes) -> [Bytes] {
        message.indices.flatMap { index in
            [0x01, 0x80].map { bit in
                var corrupted = message
                corrupted[index] ^= UInt8(bit)
                return corrupted
            }
        }
    }

    @Test func `no corruption of message 1 is answered`() throws {
        let ends = try Ends(Self.vector)
        for message in Self.corruptions(of: Self.vector.message1) {
            guard var handshake = ends.respond(to: message) else { continue }
            #expect(handshake.read(message) == nil)
            var answer = Bytes()
            let keys = handshake.write(Self.vector.payload2, ends, &answer)
            let answered = keys != nil
            #expect(!answered && answer.isEmpty)
        }
        #expect(ends.responderArena.liveSecrets == 0)
    }

    @Test func `a payload that doesn't open leaves the responder where it was`() throws {
        let ends = try Ends(Self.vector)
        guard var handshake = ends.respond(to: Self.vector.message1) else {
            Issue.record("message 1 did not open")
            return
        }
        let before = ends.responderArena.liveSecrets
        for message in Self.corruptions(of: Bytes(Self.vector.message1[80...])) {
            #expect(handshake.read(Self.vector.message1[..<80] + message) == nil)
        }
        for count in 0..<Self.vector.message1.count {
            #expect(handshake.read(Bytes(Self.vector.message1.prefix(count))) == nil)
        }
        #expect(handshake.read(Self.vector.message1, capacity: Self.vector.payload1.count - 1) == nil)
        #expect(ends.responderArena.liveSecrets == before)
        #expect(handshake.read(Self.vector.message1) == Self.vector.payload1)
        #expect(handshake.read(Self.vector.message1) == nil, "once is enough")
        var message2 = Bytes()
        let keys = handshake.write(Self.vector.payload2, ends, &message2)
        let hasKeys = keys != nil
        #expect(hasKeys)
        #expect(message2 == Self.vector.message2)
    }

    @Test func `no corruption of message 2 opens, and the genuine one does afterwards`() throws {
        let ends = try Ends(Self.vector)
        var handshake = ends.initiate()
        _ = handshake.write(Self.vector.payload1)
        let before = ends.initiatorArena.liveSecrets
        var payload = Bytes()
        let forgeries =
            Self.corruptions(of: Self.vector.message2)
            + Self.vector.message2.indices.map { Bytes(Self.vector.message2.prefix($0)) } + [Self.vector.message2 + [0]]
        for message in forgeries {
            let opened = handshake.read(message, &payload) != nil
            #expect(!opened && payload.isEmpty)
            #expect(ends.initiatorArena.liveSecrets == before)
        }
        let openedWithoutRoom = handshake.read(Self.vector.message2, &payload, capacity: 14) != nil
        #expect(!openedWithoutRoom)
        let opened = handshake.read(Self.vector.message2, &payload) != nil
        #expect(opened)
        #expect(payload == Self.vector.payload2)
        let openedTwice = handshake.read(Self.vector.message2, &payload) != nil
        #expect(!openedTwice)
    }

    @Test func `the wrong PSK, responder, initiator or prologue doesn't open`() throws {
        let ends = try Ends(Self.vector)
        let stranger = StaticKeyPair.generate()
        #expect(try !completes(ends, presharedKey: .generate()))
        #expect(try !completes(ends, presharedKey: PresharedKey.none))
        #expect(try !completes(ends, responder: stranger.publicKey))
        #expect(try !completes(ends, prologue: Bytes("John Gal".utf8)))
        #expect(try completes(ends))

        // A response to another initiator's message 1 is none to ours.
        var handshake = ends.initiate(staticKey: stranger)
        _ = handshake.write(Self.vector.payload1)
        var payload = Bytes()
        let opened = handshake.read(Self.vector.message2, &payload) != nil
        #expect(!opened)
    }

    /// Whether an initiator that believes this comes to an end with the responder of `ends`.
    private func completes(
        _ ends: Ends,
        presharedKey: PresharedKey? = nil,
        responder: PublicKey? = nil,
        prologue: Bytes? = nil
    ) throws -> Bool {
        let prologue = prologue ?? ends.prologue
        var initiator = InitiatorHandshake(
            staticKey: ends.initiatorKey,
            responder: responder ?? ends.responderKey.publicKey,
            presharedKey: presharedKey ?? ends.presharedKey,
            prologue: prologue.span.bytes,
            random: .system,
            arena: ends.initiatorArena
        )
        let written = initiator.write([])
        let message1 = try #require(written)
        guard var handshake = ends.respond(to: message1), handshake.read(message1) != nil else { return false }
        var message2 = Bytes()
        var payload = Bytes()
        let keys = handshake.write([], ends.withSystemRandom, &message2)
        guard keys != nil else { return false }
        return initiator.read(message2, &payload) != nil
    }

    @Test func `nothing is written out of turn or twice`() throws {
        let ends = try Ends(Self.vector)
        var handshake = ends.initiate()
        var payload = Bytes()
        let early = handshake.read(Self.vector.message2, &payload) != nil
        #expect(!early)
        #expect(handshake.write(Self.vector.payload1, capacity: Self.vector.message1.count - 1) == nil)
        #expect(handshake.write(Self.vector.payload1, capacity: Self.vector.message1.count) == Self.vector.message1)
        #expect(handshake.write(Self.vector.payload1) == nil)

        guard var responder = ends.respond(to: Self.vector.message1) else {
            Issue.record("message 1 did not open")
            return
        }
        var message2 = Bytes()
        let beforePayload = responder.write(Self.vector.payload2, ends, &message2) != nil
        #expect(!beforePayload && message2.isEmpty)
        #expect(responder.read(Self.vector.message1) == Self.vector.payload1)
        let room = Self.vector.message2.count
        let withoutRoom = responder.write(Self.vector.payload2, ends, &message2, capacity: room - 1) != nil
        #expect(!withoutRoom && message2.isEmpty)
        let withRoom = responder.write(Self.vector.payload2, ends, &message2, capacity: room) != nil
        #expect(withRoom)
        #expect(message2 == Self.vector.message2)
        let twice = responder.write(Self.vector.payload2, ends, &message2) != nil
        #expect(!twice)
    }

    @Test func `messages too short to be any are refused`() throws {
        let ends = try Ends(Self.vector)
        for count in 0..<InitiatorHandshake.message1Overhead {
            let opened = ends.respond(to: Bytes(Self.vector.message1.prefix(count))) != nil
            #expect(!opened)
        }
    }
}
