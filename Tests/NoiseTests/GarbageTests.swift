import Testing

@testable import Noise

/// Whatever comes from outside, of whatever length: nothing opens, nothing traps, nothing is left behind.
@Suite struct GarbageTests {
    @Test(arguments: 1...8 as ClosedRange<UInt64>) func `no garbage opens`(seed: UInt64) throws {
        var random = SplitMix(state: seed)
        let ends = try Ends(.published)
        var initiator = ends.initiate()
        _ = initiator.write([])
        let arena = SecretArena()
        let cipher = CipherState(key: arena.allocate(32))
        let cookieKey = CookieKey(responder: ends.responderKey.publicKey)
        let before = ends.initiatorArena.liveSecrets
        for _ in 0..<300 {
            let garbage = (0..<Int.random(in: 0...1_300, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            let isMessage1 = ends.respond(to: garbage) != nil
            var payload = Bytes()
            let isMessage2 = initiator.read(garbage, &payload) != nil
            #expect(!isMessage1 && !isMessage2 && payload.isEmpty)
            #expect(cipher.open(garbage, counter: random.next()) == nil)
            let nonce = Bytes(garbage.prefix(24))
            let isCookie = cookieKey.open(garbage.span.bytes, nonce: nonce.span.bytes, mac1: .zero) != nil
            #expect(!isCookie)
        }
        #expect(ends.initiatorArena.liveSecrets == before)
        #expect(ends.responderArena.liveSecrets == 0)
    }
}

/// A small generator whose numbers follow from its seed.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
