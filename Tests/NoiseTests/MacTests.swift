import Testing

@testable import Noise

/// Expected values are of Python's hashlib (`blake2b` with `key` and `digest_size`), the cookie reply of a HChaCha20 written
/// from its draft and OpenSSL's ChaCha20-Poly1305.
@Suite struct MacTests {
    static let message = (0..<1_168).map { UInt8($0 % 251) }
    static let mac1 = hex("6e36f38e0da5ec28fcfcfde022912728")
    static let source = hex("7f000001ca6c")
    static let cookie = hex("53e2aca112f4f7e35e394ff2dd447501")
    static let nonce = counting(from: 0xb0, count: 24)
    static let reply = hex("c41b4beae4b6297e66399e3a176f653263a5674b2dc3d9b070d4fb82c2272264")

    let receiver: PublicKey

    init() throws {
        receiver = try #require(PublicKey(HandshakeVector.tunnel.responderPublic))
    }

    @Test func `mac1`() {
        let key = MacKey(receiver: receiver)
        #expect(key.mac(Self.message.span.bytes).bytes == Self.mac1)
        #expect(key.mac(RawSpan()).bytes == hex("46f6fb5fdbc8c36082bd5bb656e75c91"))
    }

    @Test func `cookie and mac2`() {
        let secret = CookieSecret(random: fixed(counting(from: 0x90)), arena: SecretArena())
        let cookie: Cookie = secret.cookie(for: Self.source.span.bytes)
        #expect(cookie.bytes == Self.cookie)
        let covered = Self.message + Self.mac1
        #expect(cookie.mac(covered.span.bytes).bytes == hex("5dd5ba37cfc1f075455a9899b2accd51"))
        #expect(secret.cookie(for: hex("7f000001ca6d").span.bytes).bytes != Self.cookie)
    }

    @Test func `a mac matches itself alone`() throws {
        let mac = try #require(Mac128(Self.mac1))
        let matchesItself = mac.matches(Self.mac1.span.bytes)
        #expect(matchesItself)
        for index in Self.mac1.indices {
            var other = Self.mac1
            other[index] ^= 0x10
            let matches = mac.matches(other.span.bytes)
            #expect(!matches)
        }
        for other in [[], Bytes(Self.mac1.dropLast()), Self.mac1 + [0]] {
            let matches = mac.matches(other.span.bytes)
            #expect(!matches)
            #expect(Mac128(other) == nil)
        }
        #expect(Mac128.zero.bytes == Bytes(repeating: 0, count: 16))
        #expect(writing(capacity: 16) { mac.write(into: &$0) }.bytes == Self.mac1)
    }

    @Test func `a cookie reply opens with the mac1 that it answers`() throws {
        let key = CookieKey(responder: receiver)
        let mac1 = try #require(Mac128(Self.mac1))
        let cookie = try #require(Mac128(Self.cookie))
        let sealed = writing(capacity: CookieKey.sealedByteCount) {
            key.seal(cookie: cookie, nonce: Self.nonce.span.bytes, mac1: mac1, into: &$0)
        }
        #expect(sealed.bytes == Self.reply)
        #expect(open(key, Self.reply, Self.nonce, mac1) == Self.cookie)
    }

    @Test func `no other cookie reply opens`() throws {
        let key = CookieKey(responder: receiver)
        let mac1 = try #require(Mac128(Self.mac1))
        for index in Self.reply.indices {
            var forged = Self.reply
            forged[index] ^= 1
            #expect(open(key, forged, Self.nonce, mac1) == nil)
        }
        #expect(open(key, Self.reply, Self.nonce, .zero) == nil)
        #expect(open(key, Self.reply, Self.nonce.reversed(), mac1) == nil)
        #expect(open(CookieKey(responder: StaticKeyPair.generate().publicKey), Self.reply, Self.nonce, mac1) == nil)
        #expect(open(key, Bytes(Self.reply.dropLast()), Self.nonce, mac1) == nil)
        #expect(open(key, Self.reply + [0], Self.nonce, mac1) == nil)
        #expect(open(key, [], Self.nonce, mac1) == nil)
        #expect(open(key, Self.reply, Bytes(Self.nonce.dropLast()), mac1) == nil)
    }

    private func open(_ key: CookieKey, _ sealed: Bytes, _ nonce: Bytes, _ mac1: Mac128) -> Bytes? {
        key.open(sealed.span.bytes, nonce: nonce.span.bytes, mac1: mac1)?.bytes
    }
}

extension Mac128 {
    init?(_ bytes: Bytes) {
        self.init(bytes.span.bytes)
    }

    var bytes: Bytes { withBytes { copy($0) } }
}
