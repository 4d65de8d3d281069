import CSodium

/// X25519 (RFC 7748 §5), the `DH` of Noise §12.1.
enum Curve25519 {
    /// nil unless `privateKey` has 32 bytes.
    static func publicKey(of privateKey: RawSpan) -> PublicKey? {
        guard privateKey.byteCount == 32 else { return nil }
        Sodium.initialize()
        var words = InlineWords4()
        let outcome = privateKey.withUnsafeBytes { privateKey in
            words.mutate { publicKey in
                publicKey.withUnsafeMutableBytes { publicKey in
                    crypto_scalarmult_curve25519_base(
                        publicKey.start,
                        privateKey.start
                    )
                }
            }
        }
        return outcome == 0 ? PublicKey(words) : nil
    }

    /// nil when the result is all zero, as with a public key of low order: its sender would know every key derived from it.
    /// WireGuard aborts there, and so does protocol §3 ("matching").
    static func sharedSecret(
        _ privateKey: RawSpan,
        _ publicKey: PublicKey,
        in arena: SecretArena
    ) -> Secret? {
        guard privateKey.byteCount == 32 else { return nil }
        var secret = arena.allocate(32)
        let outcome = privateKey.withUnsafeBytes { privateKey in
            publicKey.withBytes { publicKey in
                publicKey.withUnsafeBytes { publicKey in
                    crypto_scalarmult_curve25519(
                        secret.mutableBytes.start,
                        privateKey.start,
                        publicKey.start
                    )
                }
            }
        }
        guard outcome == 0 else { return nil }
        return secret
    }
}
