import CSodium

/// Memory for secrets: locked against swapping, excluded from core dumps, between guard pages, erased when it is freed.
///
/// Each instance costs four pages and several system calls, so it is for long-lived secrets (a static key) or for memory that
/// is divided further (`SecretArena`). When `sodium_malloc` fails (the kernel limits the number of mappings), ordinary memory
/// takes its place, locked if that is still possible: a working tunnel is worth more than guard pages.
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
            sodium_free(base)  // erases it
        } else {
            _ = sodium_munlock(base, byteCount)  // erases it, even if it was not locked
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

/// @unchecked Sendable is safe: there is one owner (~Copyable), and no other code has the pointer. Reading borrows the owner
/// and writing needs exclusive access, which the compiler checks, so two threads never use the memory at once.
extension LockedBytes: @unchecked Sendable {}
