import CSodium

/// 16 bytes of keyed BLAKE2b-128: mac1, mac2, and the cookie that keys a mac2 (protocol §5, WireGuard paper §5.4.4).
///
/// Deliberately not `Equatable`: comparing is `matches`, in constant time.
public struct Mac128: Sendable {
    public static var byteCount: Int { 16 }

    /// The value of mac2 when there is no cookie.
    public static var zero: Mac128 { Mac128() }

    private var low: UInt64 = 0
    private var high: UInt64 = 0

    private init() {}

    /// nil unless there are exactly 16 bytes.
    public init?(_ bytes: RawSpan) {
        guard bytes.byteCount == 16 else { return nil }
        low = bytes.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt64.self)
        high = bytes.unsafeLoadUnaligned(fromByteOffset: 8, as: UInt64.self)
    }

    /// BLAKE2b-128 of `bytes`. `key` has 16 to 64 bytes.
    init(key: RawSpan, over bytes: RawSpan) {
        precondition(16...64 ~= key.byteCount, "BLAKE2b's keys have 16 to 64 bytes here")
        withUnsafeMutableBytes(of: &self) { output in
            key.withUnsafeBytes { key in
                bytes.withUnsafeBytes { bytes in
                    _ = crypto_generichash_blake2b(
                        output.start,
                        output.count,
                        bytes.start,
                        UInt64(bytes.count),
                        key.start,
                        key.count
                    )
                }
            }
        }
    }

    /// Whether `bytes` are these 16 bytes, in constant time.
    public func matches(_ bytes: RawSpan) -> Bool {
        guard bytes.byteCount == Self.byteCount else { return false }
        return bytes.withUnsafeBytes { theirs in
            withUnsafeBytes(of: self) { ours in
                guard let ours = ours.baseAddress, let theirs = theirs.baseAddress else { return false }
                return sodium_memcmp(ours, theirs, Self.byteCount) == 0
            }
        }
    }

    /// Appends the 16 bytes; `output` has room for them.
    public func write(into output: inout OutputRawSpan) {
        withBytes { $0.append(to: &output) }
    }

    public func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes(of: self) { bytes throws(E) -> R in try body(RawSpan(_unsafeBytes: bytes)) }
    }
}

/// Makes and checks mac1 for messages to one receiver. The key follows from the receiver's public key, so it is not secret:
/// mac1 only shows that the sender knows that key, and so scanners get no answer.
public struct MacKey: Sendable {
    private let key: InlineWords4

    public init(receiver: PublicKey) {
        key = InlineWords4(label: "mac1----", receiver)
    }

    /// `bytes` is the message up to its mac1.
    public func mac(_ bytes: RawSpan) -> Mac128 {
        key.withBytes { Mac128(key: $0, over: bytes) }
    }
}

extension InlineWords4 {
    /// BLAKE2b-256(label ‖ key); labels have 8 bytes (WireGuard paper §5.4).
    init(label: StaticString, _ publicKey: PublicKey) {
        precondition(label.utf8CodeUnitCount == 8, "labels have 8 bytes")
        Sodium.initialize()
        self.init()
        mutate { output in
            withUnsafeTemporaryAllocation(byteCount: 8 + PublicKey.byteCount, alignment: 8) { input in
                input.copyMemory(from: UnsafeRawBufferPointer(start: label.utf8Start, count: 8))
                publicKey.withBytes { key in
                    key.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: input[8...]).copyMemory(from: $0) }
                }
                output.withUnsafeMutableBytes { output in
                    _ = crypto_generichash_blake2b(
                        output.start,
                        output.count,
                        input.start,
                        UInt64(input.count),
                        nil,
                        0
                    )
                }
            }
        }
    }
}
