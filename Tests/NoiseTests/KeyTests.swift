import Testing

@testable import Noise

@Suite struct KeyTests {
    static let text = "OS0XSjizsb6vrx/oJIcIQcX6UxvG6v22QCwSRmRIjBw="
    static let bytes = hex("392d174a38b3b1beafaf1fe824870841c5fa531bc6eafdb6402c124664488c1c")
    static let privateText = "UFFSU1RVVldYWVpbXF1eX2BhYmNkZWZnaGlqa2xtbm8="

    /// BLAKE2b with a key, as Python's hashlib has it.
    @Test func aDerivedKeyIsTheSameForTheSameName() throws {
        let text = Array(Self.privateText.utf8)
        let pair = StaticKeyPair(base64: text.span.bytes)
        let own = try #require(pair)
        let derived = try #require(own.derived(for: "kl kubernetes shop/api-server"))
        let expected = hex("2772a7c9e321945032f5c498598c66b390a25c2e62d88a2d4c413f8e65cbff1d")
        #expect(derived.withPrivateBytes { $0.withUnsafeBytes { Array($0) } } == expected)
        #expect(derived.publicKey == own.derived(for: "kl kubernetes shop/api-server")?.publicKey)
        #expect(derived.publicKey != own.derived(for: "kl kubernetes shop/web")?.publicKey)
        #expect(derived.publicKey != own.publicKey)
    }

    /// Everything that isn't the one way to write these 32 bytes.
    static let wrongTexts: [String] = lengths + padding + alphabet

    private static let lengths: [String] = [
        "",
        "=",
        String(text.dropLast()),
        String(text.dropFirst()),
        text + "=",
        text + "\n",
        " " + text,
        String(repeating: "A", count: 44),
        String(repeating: "A", count: 1 << 16),
    ]

    private static let padding: [String] = [
        text.dropLast() + " ",
        text.dropLast() + "A",
        text.dropLast(2) + "==",
        // The unused bits of the last group are not zero.
        text.dropLast(2) + "x=",
        text.dropLast(2) + "z=",
        String(repeating: "=", count: 44),
        String(repeating: "A", count: 40) + "====",
    ]

    private static let alphabet: [String] = [
        // base64url
        text.replacing("/", with: "_"),
        text.replacing("/", with: "-"),
        text.replacing("/", with: "\u{0}"),
        text.replacing("/", with: "\n"),
        text.replacing("/", with: "="),
        text.replacing("/", with: "é"),
        text.replacing("x/", with: "é"),
        String(repeating: "é", count: 22),
    ]

    @Test func `a public key reads as it is written`() throws {
        let key = try #require(PublicKey(base64: Self.text))
        #expect(key.withBytes { copy($0) } == Self.bytes)
        #expect(key == PublicKey(Self.bytes))
        #expect(key.base64 == Self.text)
        #expect("\(key)" == Self.text)
        #expect(key.abbreviated == "OS0X…Bw=")
    }

    @Test(arguments: wrongTexts) func `base64 is taken strictly`(text: String) {
        #expect(PublicKey(base64: text) == nil)
        let bytes = Bytes(text.utf8)
        let isKeyPair = StaticKeyPair(base64: bytes.span.bytes) != nil
        let isPresharedKey = PresharedKey(base64: bytes.span.bytes) != nil
        #expect(!isKeyPair)
        #expect(!isPresharedKey)
    }

    @Test func `no byte but the alphabet's stands for anything`() {
        let alphabet = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        for position in 0..<42 {
            for byte in UInt8.min...UInt8.max {
                var text = Bytes(Self.text.utf8)
                text[position] = byte
                let isKey = PresharedKey(base64: text.span.bytes) != nil
                #expect(isKey == alphabet.contains(byte), "\(byte) at \(position)")
            }
        }
    }

    @Test func `every key reads as it is written`() {
        for _ in 0..<1_000 {
            let key = StaticKeyPair.generate().publicKey
            #expect(PublicKey(base64: key.base64) == key)
        }
        let zero = PublicKey(Bytes(repeating: 0, count: 32))
        #expect(zero?.base64 == String(repeating: "A", count: 43) + "=")
        #expect(PublicKey(Bytes(repeating: 0xff, count: 32))?.base64 == String(repeating: "/", count: 42) + "8=")
    }

    @Test(arguments: [0, 1, 31, 33, 64]) func `a public key has 32 bytes`(count: Int) {
        #expect(PublicKey(Bytes(repeating: 1, count: count)) == nil)
    }

    @Test func `a key pair from its text`() throws {
        let text = Bytes(Self.privateText.utf8)
        let read = StaticKeyPair(base64: text.span.bytes)
        let pair = try #require(read)
        #expect(pair.publicKey.base64 == Self.text)
        #expect(pair.withPrivateBytes { copy($0) } == counting(from: 0x50))
        #expect(pair.privateKeyBase64Line().withBytes { copy($0) } == text + [0x0a])
    }

    @Test func `a preshared key from its text`() throws {
        let text = Bytes(Self.privateText.utf8)
        let read = PresharedKey(base64: text.span.bytes)
        let key = try #require(read)
        #expect(key.withBytes { copy($0) } == counting(from: 0x50))
        #expect(key.base64Line().withBytes { copy($0) } == text + [0x0a])
        #expect(PresharedKey.none.withBytes { copy($0) } == Bytes(repeating: 0, count: 32))
    }

    @Test func `what isn't filled is no key`() {
        let pair = StaticKeyPair(filling: { _ in false })
        let presharedKey = PresharedKey(filling: { _ in false })
        #expect(pair == nil)
        #expect(presharedKey == nil)
    }

    @Test func `generated keys differ, and are clamped as wg leaves them`() {
        var seen: Set<Bytes> = []
        for _ in 0..<100 {
            let bytes = StaticKeyPair.generate().withPrivateBytes { copy($0) }
            #expect(bytes[0] & 7 == 0)
            #expect(bytes[31] & 0xc0 == 0x40)
            seen.insert(bytes)
            seen.insert(PresharedKey.generate().withBytes { copy($0) })
        }
        #expect(seen.count == 200)
    }
}
