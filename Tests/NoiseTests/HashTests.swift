import Testing

@testable import Noise

/// Expected values are of Python's hashlib and hmac.
@Suite struct HashTests {
    static let key = counting(from: 0, count: 64)

    @Test func `BLAKE2b-512`() {
        // RFC 7693, appendix A.
        #expect(
            hash([], Bytes("abc".utf8))
                == hex(
                    """
                    ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
                    7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923
                    """
                )
        )
        #expect(
            hash(Self.key, Bytes("abc".utf8))
                == hex(
                    """
                    309f44a73279819839bd68a3f3b1943cd87337665eb7458469f2bc0406515402\
                    5ee341940832581cf2f3dddc297aefceecadaf020833b893dbf166d126de9229
                    """
                )
        )
    }

    private func hash(_ first: Bytes, _ second: Bytes) -> Bytes {
        var output = Bytes(repeating: 0, count: 64)
        first.withUnsafeBytes { first in
            output.withUnsafeMutableBytes { HashWorkspace().hash(first, second.span.bytes, into: $0) }
        }
        return output
    }

    @Test func `HMAC-BLAKE2b has block size 128`() {
        #expect(
            hmac(Bytes("what do ya want for nothing?".utf8))
                == hex(
                    """
                    e33fddf8992f619b8fc74af98a787f16606b9a7f588bda065006ac8c7e6fd3f4\
                    5ff64fd7ea59c43847f32dd569d7db654d7b77715e7bf2d0fe7afa0f0ec75bc4
                    """
                )
        )
        #expect(
            hmac([])
                == hex(
                    """
                    ea1896ab7c8319a824482f757c038b70089765501b1f8bdb78153d195915bd33\
                    0bde7a8c0fb6dbf3de09277662ba661fde80017dc277309eedfe05bdf5b27e18
                    """
                )
        )
    }

    private func hmac(_ message: Bytes) -> Bytes {
        var output = Bytes(repeating: 0, count: 64)
        HashWorkspace().hmac(key: Self.key.span.bytes, message.span.bytes, into: &output)
        return output
    }

    @Test func `HKDF has three outputs of 64 bytes`() {
        let workspace = HashWorkspace()
        let outputs = workspace.hkdf(chainingKey: Self.key.span.bytes, input: counting(from: 0).span.bytes) {
            [copy($0), copy($1), copy($2)]
        }
        #expect(
            outputs == [
                hex(
                    """
                    b257cf2863e7aa7f84d41d31e58df6dfb1e0a6cf3172192cc35eba2625a21975\
                    db4475b2ef89316383acac6b2ac7cf03f7583e0ff20a64fb208fa5b1199f835f
                    """
                ),
                hex(
                    """
                    4f4d712feaff914e80db4d0d400a46056854134b5001018c4f1fe19bb477053c\
                    5a9b92f8c937b1328c0ae7e51895b8d68068bc84d59436cc3b75de5a2d6d0630
                    """
                ),
                hex(
                    """
                    c3e03a921f0f492329fe003e995b982fdd8c0596cc3575e01c2f24234e05e477\
                    8d233726d60ffe48a7d9ef235a6ff5fac555bafcfdd1272c4763ded2e01c0c3f
                    """
                ),
            ]
        )
    }
}
