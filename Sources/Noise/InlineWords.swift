/// 32 bytes inline, for keys that are not secret: with a heap buffer each, keys would cost an allocation to make or compare.
struct InlineWords4: Hashable, Sendable {
    private var a: UInt64 = 0
    private var b: UInt64 = 0
    private var c: UInt64 = 0
    private var d: UInt64 = 0

    init() {}

    /// Hashes only the first eight bytes. To find keys that agree in them is as hard as to guess eight bytes, and the tables
    /// that are searched for each message hold few keys.
    func hash(into hasher: inout Hasher) { hasher.combine(a) }

    init?(_ bytes: RawSpan) {
        guard bytes.byteCount == 32 else { return nil }
        a = bytes.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt64.self)
        b = bytes.unsafeLoadUnaligned(fromByteOffset: 8, as: UInt64.self)
        c = bytes.unsafeLoadUnaligned(fromByteOffset: 16, as: UInt64.self)
        d = bytes.unsafeLoadUnaligned(fromByteOffset: 24, as: UInt64.self)
    }

    /// false when `body` returns false or leaves some of the 32 bytes unwritten.
    mutating func write(_ body: (inout OutputRawSpan) -> Bool) -> Bool {
        withUnsafeMutableBytes(of: &self) { buffer in
            var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
            return body(&output) && output.isFull
        }
    }

    mutating func mutate<R>(_ body: (inout MutableRawSpan) -> R) -> R {
        withUnsafeMutableBytes(of: &self) { buffer in
            var bytes = MutableRawSpan(_unsafeBytes: buffer)
            return body(&bytes)
        }
    }

    func withBytes<R: ~Copyable, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes(of: self) { bytes throws(E) -> R in try body(RawSpan(_unsafeBytes: bytes)) }
    }
}
