import Testing

/// A handshake with everything fixed, ephemeral keys included, and some messages after it.
struct HandshakeVector: Sendable, CustomTestStringConvertible {
    struct Transport: Sendable {
        let fromInitiator: Bool
        let counter: UInt64
        let payload: Bytes
        let sealed: Bytes
    }

    let testDescription: String
    let prologue: Bytes
    let presharedKey: Bytes
    let initiatorStatic: Bytes
    let initiatorEphemeral: Bytes
    let responderStatic: Bytes
    let responderPublic: Bytes
    let responderEphemeral: Bytes
    let payload1: Bytes
    let message1: Bytes
    let payload2: Bytes
    let message2: Bytes
    let handshakeHash: Bytes
    let transport: [Transport]

    static let all = [published, tunnel]

    /// The one published vector of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b, from cacophony's collection.
    static let published = HandshakeVector(
        testDescription: "published",
        prologue: hex("4a6f686e2047616c74"),
        presharedKey: hex("54686973206973206d7920417573747269616e20706572737065637469766521"),
        initiatorStatic: hex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
        initiatorEphemeral: hex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
        responderStatic: hex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
        responderPublic: hex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62"),
        responderEphemeral: hex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
        payload1: hex("4c756477696720766f6e204d69736573"),
        message1: hex(
            """
            ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
            b6fe0240b839afac809de1630eaf99d8f9b941394f0512c0554633bbb021d151\
            76135c0a20e7fdb9a9ed066f22f054b47625b1d5061cb27d6a17f053273db7c2\
            5216a5addc506ee321bc0618feb5849d
            """
        ),
        payload2: hex("4d757272617920526f746862617264"),
        message2: hex(
            """
            95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
            8f627e69fc120006f746b9d420bf4056cf8481ab32d9e904ffaeeaa56a5290
            """
        ),
        handshakeHash: hex(
            """
            ed837c9084f2f0333a7ec60b9bcacd9921394858de8ced118b5966d1147ba390\
            084dab42326c565a309c29317a6079be30aa1d790d25a517b43287426cb1d36a
            """
        ),
        transport: [
            Transport(
                fromInitiator: true,
                counter: 0,
                payload: hex("462e20412e20486179656b"),
                sealed: hex("07fc0034398a5f1010322be193d62f94bebf2948a20b3e15d681fe")
            ),
            Transport(
                fromInitiator: false,
                counter: 0,
                payload: hex("4361726c204d656e676572"),
                sealed: hex("2ea5400f5b8a16971c8b67bde75aeb7987d454b1c0beeb2566932d")
            ),
            Transport(
                fromInitiator: true,
                counter: 1,
                payload: hex("4a65616e2d426170746973746520536179"),
                sealed: hex("96eef918ef51639fc0e156da1823c4f71b33fac5af983f5da9384f7da20d86ed91")
            ),
            Transport(
                fromInitiator: false,
                counter: 1,
                payload: hex("457567656e2042f6686d20766f6e2042617765726b"),
                sealed: hex("f02766a56496e1fbf32e05274baebf6d693c8f3e4c6e0dc7ebdc5ac170f15dae433b92f469")
            ),
        ]
    )

    /// The tunnel's own prologue, no PSK and an empty payload, computed with Python's hashlib and hmac,
    /// and OpenSSL's X25519 and ChaCha20-Poly1305.
    static let tunnel = HandshakeVector(
        testDescription: "kl-tunnel v1",
        prologue: Bytes("kl-tunnel v1".utf8),
        presharedKey: Bytes(repeating: 0, count: 32),
        initiatorStatic: counting(from: 0x10),
        initiatorEphemeral: counting(from: 0x30),
        responderStatic: counting(from: 0x50),
        responderPublic: hex("392d174a38b3b1beafaf1fe824870841c5fa531bc6eafdb6402c124664488c1c"),
        responderEphemeral: counting(from: 0x70),
        payload1: Bytes("time and parameters".utf8),
        message1: hex(
            """
            34e42d4af5ef94a07a3a84201b889d4cd1a743cb27b11b6a10438a8feb8e5847\
            c4838e8e4b2e01f9e9d9339922e47f48b78a6036b5466979871e1d948f58c091\
            823884e6816bd9ec84a0da869130f470cecadcb6418a6f547a6459b8e27b309e\
            34560b5565606d572690d939d836e214a608a9
            """
        ),
        payload2: [],
        message2: hex(
            """
            23b7bb8c91ae008711fb12846780bcdf1e065f821bdfec49f57e7c7dcd4c4823\
            b686cc7382cd063c54a01f0e3adb1b83
            """
        ),
        handshakeHash: hex(
            """
            2fbccf0c23d70f89eba388cb24bb472db010f81d37d46a86f5816cb041e52f1a\
            10b5e48c6e8e0516d09af754599aeb3312aa1c70dcfead4b3bfa616815c4393b
            """
        ),
        transport: [
            Transport(fromInitiator: true, counter: 0, payload: [], sealed: hex("1f5d7cb815781a4084f7902fba67a8f4")),
            // The greatest counter of the protocol, 2^62 − 1.
            Transport(
                fromInitiator: false,
                counter: (1 << 62) - 1,
                payload: Bytes("pong".utf8),
                sealed: hex("0a2460dcd1a463e58f9d76fecd9afbfda9e55601")
            ),
        ]
    )
}
