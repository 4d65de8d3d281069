import CSodium

/// A responder under load answers an initiation with a cookie. An initiator that uses it as the key of mac2 has shown that it
/// receives at its address (WireGuard paper §5.4.7, protocol §5).
public typealias Cookie = Mac128

extension Cookie {
    /// mac2: `bytes` is the message up to its mac2, mac1 included.
    public func mac(_ bytes: RawSpan) -> Mac128 {
        withBytes { Mac128(key: $0, over: bytes) }
    }
}

/// The secret that a responder makes its cookies from. The owner replaces it every 120 s; nothing is stored for an address.
public struct CookieSecret: ~Copyable {
    private let secret: Secret

    public init(random: RandomSource, arena: SecretArena) {
        var secret = arena.allocate(32)
        secret.withMutableBytes { random.fill(&$0) }
        self.secret = secret
    }

    /// `source` is address ‖ port, always encoded in the same way.
    public borrowing func cookie(for source: RawSpan) -> Mac128 {
        secret.withBytes { Mac128(key: $0, over: source) }
    }
}

/// Seals and opens one responder's cookie replies: XChaCha20-Poly1305, with the mac1 of the answered message as additional
/// data. The key follows from the responder's public key; an attacker off the path doesn't know the mac1.
public struct CookieKey: Sendable {
    public static var nonceByteCount: Int { 24 }
    /// The cookie and a tag.
    public static var sealedByteCount: Int { 32 }

    private let key: InlineWords4

    public init(responder: PublicKey) {
        key = InlineWords4(label: "cookie--", responder)
    }

    /// Appends 32 bytes to `output`, which has room for them. `nonce` is 24 random bytes.
    public func seal(cookie: Mac128, nonce: RawSpan, mac1: Mac128, into output: inout OutputRawSpan) {
        precondition(nonce.byteCount == Self.nonceByteCount, "XChaCha20's nonces have 24 bytes")
        precondition(output.freeCapacity >= Self.sealedByteCount, "there is no room for the sealed cookie")
        output.withUnsafeMutableBytes { buffer, initializedCount in
            let tail = UnsafeMutableRawBufferPointer(rebasing: buffer[initializedCount...])
            withArguments(nonce, cookie, mac1) { key, nonce, cookie, mac1 in
                _ = crypto_aead_xchacha20poly1305_ietf_encrypt(
                    tail.start,
                    nil,
                    cookie,
                    UInt64(Mac128.byteCount),
                    mac1,
                    UInt64(Mac128.byteCount),
                    nil,
                    nonce,
                    key
                )
            }
            initializedCount += Self.sealedByteCount
        }
    }

    /// nil: the reply doesn't open with this mac1, or a length is wrong.
    public func open(_ sealed: RawSpan, nonce: RawSpan, mac1: Mac128) -> Mac128? {
        guard sealed.byteCount == Self.sealedByteCount, nonce.byteCount == Self.nonceByteCount else { return nil }
        return withUnsafeTemporaryAllocation(byteCount: Mac128.byteCount, alignment: 8) { cookie in
            let outcome = sealed.withUnsafeBytes { sealed in
                withArguments(nonce, .zero, mac1) { key, nonce, _, mac1 in
                    crypto_aead_xchacha20poly1305_ietf_decrypt(
                        cookie.start,
                        nil,
                        nil,
                        sealed.start,
                        UInt64(sealed.count),
                        mac1,
                        UInt64(Mac128.byteCount),
                        nonce,
                        key
                    )
                }
            }
            return outcome == 0 ? Mac128(RawSpan(_unsafeBytes: cookie)) : nil
        }
    }

    private typealias Bytes = UnsafePointer<UInt8>

    private func withArguments<R>(
        _ nonce: RawSpan,
        _ cookie: Mac128,
        _ mac1: Mac128,
        _ body: (_ key: Bytes, _ nonce: Bytes, _ cookie: Bytes, _ mac1: Bytes) -> R
    ) -> R {
        key.withBytes { key in
            key.withUnsafeBytes { key in
                nonce.withUnsafeBytes { nonce in
                    withUnsafeBytes(of: cookie) { cookie in
                        withUnsafeBytes(of: mac1) { mac1 in
                            body(
                                key.start,
                                nonce.start,
                                cookie.start,
                                mac1.start
                            )
                        }
                    }
                }
            }
        }
    }
}
