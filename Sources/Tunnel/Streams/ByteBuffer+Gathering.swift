import NIOCore

/// Keeps the memory of queued buffers close to the number of bytes in them.
extension ByteBuffer {
    /// Consecutive small pieces are gathered in one buffer of up to this size. What comes in datagrams, 1.4 kB each, is
    /// copied once more for it; in return one buffer replaces many, and the opened message's buffer is free for the next
    /// message.
    static let gatheredAtMost = 64 * 1_024
    /// Larger pieces are not gathered: to copy them would cost more than it saves.
    static let smallPiece = 4 * 1_024

    /// The same bytes, copied if they fill less than half of their buffer, which they would keep alive.
    var trimmed: ByteBuffer {
        self.readableBytes * 2 >= self.storageCapacity ? self : self.compacted(capacity: self.readableBytes)
    }

    /// Appends a small piece to this buffer. False: the piece or the sum is too large.
    ///
    /// The capacity grows by doubling: it is never more than twice what is needed.
    mutating func gather(_ bytes: ByteBuffer) -> Bool {
        let count = self.readableBytes + bytes.readableBytes
        guard bytes.readableBytes <= Self.smallPiece, count <= Self.gatheredAtMost else { return false }
        if self.writableBytes < bytes.readableBytes {
            // SwiftNIO rounds up to a power of two: at most twice the size asked for.
            self = self.compacted(capacity: count)
        }
        self.writeImmutableBuffer(bytes)
        return true
    }

    /// A copy with room for all that may be gathered in it, so that it isn't copied again as it grows.
    var withRoomToGather: ByteBuffer { self.compacted(capacity: Self.gatheredAtMost) }

    /// A copy of the readable bytes, in a buffer of its own.
    private func compacted(capacity: Int) -> ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(capacity)
        copy.writeImmutableBuffer(self)
        return copy
    }
}

extension CircularBuffer where Element == ByteBuffer {
    /// Most streams keep one buffer at a time; SwiftNIO's default room for sixteen would be allocated and freed with each
    /// stream.
    static var forFew: Self { Self(initialCapacity: 2) }

    /// Frees the room of a queue that is empty now, so that a stream that was busy once keeps none.
    mutating func giveBackRoom() {
        if self.isEmpty, self.capacity > 4 { self = .forFew }
    }

    /// Appends a buffer behind the last one, or gathers its bytes into the last one.
    mutating func appendGathering(_ bytes: ByteBuffer) {
        // Taken out of the queue: through the subscript the buffer would be shared, and all its bytes would be copied on the
        // write.
        if var last = self.popLast() {
            let isGathered = last.gather(bytes)
            self.append(last)
            if isGathered { return }
        }
        self.append(bytes.trimmed)
    }
}
