import NIOCore

/// What keeps buffers that wait near the size of what is in them.
extension ByteBuffer {
    /// Small pieces that follow each other are gathered in one of up to this size.
    static let gatheredAtMost = 4 * 1_024

    /// The same bytes, but not as a small part of a large buffer that they would keep alive.
    var trimmed: ByteBuffer {
        self.readableBytes * 2 >= self.storageCapacity ? self : self.compacted(capacity: self.readableBytes)
    }

    /// Appends small pieces to small pieces. False: the two would be too large for one.
    ///
    /// The room grows by doubling: there is never much more of it than is needed.
    mutating func gather(_ bytes: ByteBuffer) -> Bool {
        let count = self.readableBytes + bytes.readableBytes
        guard count <= Self.gatheredAtMost else { return false }
        if self.writableBytes < bytes.readableBytes {
            self = self.compacted(capacity: min(2 * count, Self.gatheredAtMost))
        }
        self.writeImmutableBuffer(bytes)
        return true
    }

    /// A copy of what is readable, in a buffer of its own.
    private func compacted(capacity: Int) -> ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(capacity)
        copy.writeImmutableBuffer(self)
        return copy
    }
}
