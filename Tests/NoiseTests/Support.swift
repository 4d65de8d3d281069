@testable import Noise

/// Bytes of a test: no secret of anyone's, so they may lie in arrays.
typealias Bytes = [UInt8]

/// The bytes that `text` spells; spaces are for the reader.
func hex(_ text: String) -> Bytes {
    let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
    return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}

/// `count` bytes, each one more than the one before.
func counting(from first: UInt8, count: Int = 32) -> Bytes {
    (0..<count).map { first &+ UInt8($0) }
}

func copy(_ span: RawSpan) -> Bytes {
    span.withUnsafeBytes { Bytes($0) }
}

/// What `body` writes into a span of `capacity` bytes, and what it returns.
func writing<R>(capacity: Int, _ body: (inout OutputRawSpan) -> R) -> (bytes: Bytes, result: R) {
    withUnsafeTemporaryAllocation(byteCount: capacity, alignment: 1) { buffer in
        var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
        let result = body(&output)
        return (copy(output.bytes), result)
    }
}

/// As above, for a result that can't be copied.
func writing<R: ~Copyable>(_ bytes: inout Bytes, capacity: Int, _ body: (inout OutputRawSpan) -> R) -> R {
    withUnsafeTemporaryAllocation(byteCount: capacity, alignment: 1) { buffer in
        var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
        let result = body(&output)
        bytes = copy(output.bytes)
        return result
    }
}

/// Hands out the given bytes, once each.
func fixed(_ bytes: Bytes) -> RandomSource {
    var rest = bytes[...]
    return RandomSource { span in
        for offset in span.byteOffsets { span.storeBytes(of: rest.removeFirst(), toByteOffset: offset, as: UInt8.self) }
    }
}

/// Hands out the given bytes from their start, each time it is asked.
func repeating(_ bytes: Bytes) -> RandomSource {
    RandomSource { span in
        for offset in span.byteOffsets { span.storeBytes(of: bytes[offset], toByteOffset: offset, as: UInt8.self) }
    }
}

extension MutableRawSpan {
    mutating func fill(from bytes: Bytes) -> Bool {
        guard bytes.count == byteCount else { return false }
        withUnsafeMutableBytes { $0.copyBytes(from: bytes) }
        return true
    }
}

extension PublicKey {
    init?(_ bytes: Bytes) {
        self.init(bytes.span.bytes)
    }
}

extension StaticKeyPair {
    convenience init?(_ bytes: Bytes) {
        self.init(filling: { $0.fill(from: bytes) })
    }
}

extension PresharedKey {
    convenience init?(_ bytes: Bytes) {
        self.init(filling: { $0.fill(from: bytes) })
    }
}

extension CipherState {
    borrowing func seal(_ plaintext: Bytes, counter: UInt64) -> Bytes {
        var bytes = plaintext + Bytes(repeating: 0, count: Self.tagByteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            sealInPlace(&span, at: 0..<plaintext.count, counter: counter)
        }
        return bytes
    }

    /// - Parameter room: for the plaintext; by default as much as is best.
    borrowing func open(_ sealed: Bytes, counter: UInt64, room: Int? = nil) -> Bytes? {
        var plaintext = Bytes()
        let isAuthentic = writing(&plaintext, capacity: room ?? Self.roomToOpen(sealed.count)) {
            open(sealed.span.bytes, counter: counter, into: &$0)
        }
        return isAuthentic ? plaintext : nil
    }
}
