import CSodium

/// Memory for secrets: locked against swapping, left out of core dumps, between guard pages, wiped when it ends.
///
/// Each one costs four pages and several system calls, so it is for what lives long (a static key) or what is cut up
/// further (`SecretArena`). Where `sodium_malloc` has nothing left (the kernel bounds the number of mappings), ordinary
/// memory stands in, locked if that is still possible: a tunnel that goes on is worth more than its guard pages.
public struct LockedBytes: ~Copyable {
    public let byteCount: Int
    let base: UnsafeMutableRawPointer
    private let isGuarded: Bool

    /// All zero. Aligned to 64 bytes when `byteCount` is a multiple of 64.
    public init(byteCount: Int) {
        self.init(byteCount: byteCount, guarded: true)
    }

    init(byteCount: Int, guarded: Bool) {
        precondition(byteCount > 0, "locked memory of no bytes")
        Sodium.initialize()
        self.byteCount = byteCount
        if guarded, let memory = sodium_malloc(byteCount) {
            base = memory
            isGuarded = true
        } else {
            base = .allocate(byteCount: byteCount, alignment: 64)
            isGuarded = false
            _ = sodium_mlock(base, byteCount)
        }
        sodium_memzero(base, byteCount)
    }

    deinit {
        if isGuarded {
            sodium_free(base)  // wipes
        } else {
            _ = sodium_munlock(base, byteCount)  // wipes, even what it could not lock
            sodium_memzero(base, byteCount)
            base.deallocate()
        }
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

/// @unchecked Sendable is safe: there is one owner (~Copyable), and nothing else knows the pointer. Reading borrows the
/// owner and writing needs it exclusively; the compiler checks that of any value, so no two threads meet: this is safe.
extension LockedBytes: @unchecked Sendable {}
