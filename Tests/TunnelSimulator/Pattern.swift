import NIOCore

/// The bytes that a stream carries: each follows from its offset and the stream's base, so that a lost, duplicated or
/// misplaced piece shows.
struct Pattern {
    /// A prime, so that it divides no size of messages or windows.
    private static let period = 65_521
    private static let longest = 65_536
    private static let table: ByteBuffer = {
        let random = SeededRandom(seed: 0x7061_7474_6572_6e)
        let one = (0..<period).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        var buffer = ByteBuffer()
        buffer.reserveCapacity(period + longest)
        buffer.writeBytes(one)
        buffer.writeBytes(one)
        buffer.writeBytes(one.prefix(2 * longest - 2 * period))
        return buffer
    }()

    let base: UInt64

    private func start(_ offset: UInt64) -> Int { Int((self.base &+ offset) % UInt64(Self.period)) }

    func bytes(at offset: UInt64, count: Int) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.reserveCapacity(count)
        var at = offset
        var left = count
        while left > 0 {
            let piece = min(left, Self.longest)
            if let slice = Self.table.getSlice(at: self.start(at), length: piece) { bytes.writeImmutableBuffer(slice) }
            at += UInt64(piece)
            left -= piece
        }
        return bytes
    }

    func matches(_ bytes: ByteBuffer, at offset: UInt64) -> Bool {
        var bytes = bytes
        var at = offset
        while bytes.readableBytes > 0 {
            let count = min(bytes.readableBytes, Self.longest)
            guard let piece = bytes.readSlice(length: count) else { return false }
            guard piece == Self.table.getSlice(at: self.start(at), length: count) else { return false }
            at += UInt64(count)
        }
        return true
    }
}
