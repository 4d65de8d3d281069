import Testing

@testable import Noise

@Suite struct CipherStateTests {
    private static func cipher(_ arena: SecretArena, key: Bytes = counting(from: 0x80)) -> CipherState {
        var secret = arena.allocate(32)
        secret.copy(from: key.span.bytes)
        return CipherState(key: secret)
    }

    /// RFC 8439, appendix A.5: the vector whose nonce begins with zeros, as Noise's do.
    @Test func `the RFC's vector`() {
        let arena = SecretArena()
        var key = arena.allocate(32)
        key.copy(from: hex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0").span.bytes)
        let additionalData = hex("f33388860000000000004e91")
        let counter: UInt64 = 0x0807_0605_0403_0201
        let plaintext = Bytes(
            """
            Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, or \
            obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference material \
            or to cite them other than as /\u{201c}work in progress./\u{201d}
            """.utf8
        )
        let expected = hex(
            """
            64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2\
            4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf\
            332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
            9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4\
            b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e\
            af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
            0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10\
            49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29\
            a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38
            """
        )
        let sealed = writing(capacity: 300) {
            ChaChaPoly.seal(
                plaintext.span.bytes,
                additionalData: additionalData.span.bytes,
                key: key,
                counter: counter,
                into: &$0
            )
        }
        #expect(sealed.bytes == expected)
        let opened = writing(capacity: 300) {
            ChaChaPoly.open(
                expected.span.bytes,
                additionalData: additionalData.span.bytes,
                key: key,
                counter: counter,
                into: &$0
            )
        }
        #expect(opened.result)
        #expect(opened.bytes == plaintext)
    }

    @Test(arguments: [0, 1, 15, 16, 17, 63, 64, 65, 1_168, 16_384])
    func `what was sealed opens, in place and elsewhere`(count: Int) {
        let arena = SecretArena()
        let cipher = Self.cipher(arena)
        let plaintext = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let counters: [UInt64] = [0, 1, UInt64(UInt32.max), 1 << 32, (1 << 62) - 1, .max - 1]
        for counter in counters {
            let sealed = cipher.seal(plaintext, counter: counter)
            #expect(sealed.count == count + CipherState.tagByteCount)
            #expect(cipher.open(sealed, counter: counter) == plaintext)
            #expect(cipher.open(sealed, counter: counter ^ 1) == nil)
            #expect(cipher.open(sealed, counter: counter ^ (1 << 40)) == nil)
        }
    }

    @Test func `no forgery opens`() {
        let arena = SecretArena()
        let cipher = Self.cipher(arena)
        let sealed = cipher.seal(Bytes("a message".utf8), counter: 5)
        for index in sealed.indices {
            for bit in 0..<8 {
                var forged = sealed
                forged[index] ^= 1 << UInt8(bit)
                #expect(cipher.open(forged, counter: 5) == nil)
                #expect(cipher.open(forged, counter: 5, room: sealed.count) == nil)
            }
        }
        for count in sealed.indices { #expect(cipher.open(Bytes(sealed.prefix(count)), counter: 5) == nil) }
        #expect(cipher.open(sealed + [0], counter: 5) == nil)
        #expect(Self.cipher(arena, key: counting(from: 0x81)).open(sealed, counter: 5) == nil)
        #expect(cipher.open(sealed, counter: 5) != nil)
    }

    @Test func `a refusal leaves the output as it was`() {
        let arena = SecretArena()
        let cipher = Self.cipher(arena)
        let sealed = cipher.seal([1, 2, 3], counter: 0)
        let output = writing(capacity: 8) { output in
            output.append(9)
            let forged = cipher.open(sealed.span.bytes, counter: 1, into: &output)
            let tooShort = cipher.open(sealed.span.bytes.extracting(first: 15), counter: 0, into: &output)
            let first = cipher.open(sealed.span.bytes, counter: 0, into: &output)
            let second = cipher.open(sealed.span.bytes, counter: 0, into: &output)
            let withoutRoom = cipher.open(sealed.span.bytes, counter: 0, into: &output)
            return [forged, tooShort, first, second, withoutRoom]
        }
        #expect(output.result == [false, false, true, true, false])
        #expect(output.bytes == [9, 1, 2, 3, 1, 2, 3])
    }

    /// Noise §5.1.
    @Test func `the last nonce is reserved`() {
        let arena = SecretArena()
        #expect(Self.cipher(arena).open(Bytes(repeating: 0, count: 16), counter: .max) == nil)
    }
}
