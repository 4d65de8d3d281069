import CSodium

/// A slot of a `SecretArena`: erased and given back when the value is destroyed.
public struct Secret: ~Copyable {
    public let byteCount: Int
    private let region: SecretRegion
    private let slot: Int
    private let base: UnsafeMutableRawPointer

    init(byteCount: Int, region: SecretRegion, slot: Int) {
        self.byteCount = byteCount
        self.region = region
        self.slot = slot
        base = region.base + slot * SecretRegion.slotByteCount
    }

    deinit {
        sodium_memzero(base, byteCount)
        region.giveBack(slot)
    }

    public borrowing func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try body(RawSpan(_unsafeStart: base, byteCount: byteCount))
    }

    public mutating func withMutableBytes<R: ~Copyable, E: Error>(
        _ body: (inout MutableRawSpan) throws(E) -> R
    ) throws(E) -> R {
        var span = MutableRawSpan(_unsafeStart: base, byteCount: byteCount)
        return try body(&span)
    }
}

extension Secret {
    /// For C calls. The pointer is valid as long as the secret, which the caller ensures by borrowing it.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: byteCount) }

    /// The same, for writing.
    var mutableBytes: UnsafeMutableRawBufferPointer {
        mutating get { UnsafeMutableRawBufferPointer(start: base, count: byteCount) }
    }

    /// `source` must be exactly as long as this secret.
    mutating func copy(from source: RawSpan) {
        precondition(source.byteCount == byteCount, "a secret takes exactly its own length")
        source.withUnsafeBytes { source in
            if let start = source.baseAddress { base.copyMemory(from: start, byteCount: byteCount) }
        }
    }

    borrowing func copy(in arena: SecretArena) -> Secret {
        var twin = arena.allocate(byteCount)
        withBytes { twin.copy(from: $0) }
        return twin
    }
}
