import CSodium

/// An agent's own static key pair (protocol §2). Immutable once made, and in locked memory of its own, since it outlives
/// every connection and is shared by all of them.
public final class StaticKeyPair: Sendable {
    public static let privateKeyByteCount = 32

    public let publicKey: PublicKey
    private let privateKey: LockedBytes

    /// Fills the 32 private bytes straight into locked memory. nil when `body` returns false.
    public convenience init?(filling body: (inout MutableRawSpan) -> Bool) {
        var privateKey = LockedBytes(byteCount: Self.privateKeyByteCount)
        guard privateKey.withMutableBytes(body) else { return nil }
        self.init(privateKey)
    }

    /// `text` is base64 as `wg genkey` prints it, without a newline; nil when it isn't exactly that.
    public convenience init?(base64 text: RawSpan) {
        self.init(filling: { key in Base64.decodeKey(text, into: &key) })
    }

    private init?(_ privateKey: consuming LockedBytes) {
        guard let publicKey = privateKey.withBytes({ Curve25519.publicKey(of: $0) }) else { return nil }
        self.publicKey = publicKey
        self.privateKey = privateKey
    }

    /// Another pair, always the same for the same name, that only the owner of this one can make: its private key is BLAKE2b of the
    /// name, keyed with this private key. Neither can be computed from the other or from public keys.
    public func derived(for name: String) -> StaticKeyPair? {
        let name = Array(name.utf8)
        return StaticKeyPair { key in
            self.withPrivateBytes { own in
                key.withUnsafeMutableBytes { key in
                    own.withUnsafeBytes { own in
                        crypto_generichash_blake2b(
                            key.start,
                            key.count,
                            name,
                            UInt64(name.count),
                            own.start,
                            own.count
                        ) == 0
                    }
                }
            }
        }
    }

    public static func generate() -> StaticKeyPair {
        generate(random: .system)
    }

    static func generate(random: RandomSource) -> StaticKeyPair {
        while true {
            let pair = StaticKeyPair { key in
                random.fill(&key)
                key.withUnsafeMutableBytes { key in
                    // Clamped as `wg genkey` does (RFC 7748 §5). libsodium does this on use anyway.
                    key[0] &= 248
                    key[31] = (key[31] & 127) | 64
                }
                return true
            }
            if let pair { return pair }
        }
    }

    public func withPrivateBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try privateKey.withBytes(body)
    }

    /// The private key as `wg genkey` prints it, newline included, in locked memory.
    public func privateKeyBase64Line() -> LockedBytes {
        withPrivateBytes { Base64.line(of: $0) }
    }
}
