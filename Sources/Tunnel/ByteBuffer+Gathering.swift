import NIOCore

/// What keeps buffers that wait near the size of what is in them.
extension ByteBuffer {
    /// Small pieces that follow each other are gathered in one of up to this size. What comes in datagrams, 1.4 kB each, is
    /// copied once more for it; in return there is one buffer for many, and the opened message's is used again at once.
    static let gatheredAtMost = 64 * 1_024
    /// Greater ones stay as they are: to copy them would cost more than it saves.
    static let smallPiece = 4 * 1_024

    /// The same bytes, but not as a small part of a large buffer that they would keep alive.
    var trimmed: ByteBuffer {
        self.readableBytes * 2 >= self.storageCapacity ? self : self.compacted(capacity: self.readableBytes)
    }

    /// Appends small pieces to small pieces. False: the two would be too large for one.
    ///
    /// The room grows by doubling: there is never more than twice as much of it as is needed.
    mutating func gather(_ bytes: ByteBuffer) -> Bool {
        let count = self.readableBytes + bytes.readableBytes
        guard bytes.readableBytes <= Self.smallPiece, count <= Self.gatheredAtMost else { return false }
        if self.writableBytes < bytes.readableBytes {
            // SwiftNIO rounds up to a power of two: room for as much again at most.
            self = self.compacted(capacity: count)
        }
        self.writeImmutableBuffer(bytes)
        return true
    }

    /// A copy with room for all that may be gathered in it, so that nothing is copied again as it grows.
    var withRoomToGather: ByteBuffer { self.compacted(capacity: Self.gatheredAtMost) }

    /// A copy of what is readable, in a buffer of its own.
    private func compacted(capacity: Int) -> ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(capacity)
        copy.writeImmutableBuffer(self)
        return copy
    }
}

extension CircularBuffer where Element == ByteBuffer {
    /// Most streams keep one buffer at a time, and SwiftNIO's usual room for sixteen would be made and destroyed with each.
    static var forFew: Self { Self(initialCapacity: 2) }

    /// A stream that was busy once and is idle now keeps no room for it.
    mutating func giveBackRoom() {
        if self.isEmpty, self.capacity > 4 { self = .forFew }
    }

    /// Behind the last buffer, or in it.
    mutating func appendGathering(_ bytes: ByteBuffer) {
        // Taken out meanwhile: the subscript would hand out a copy, and all its bytes would be copied with it.
        if var last = self.popLast() {
            let isGathered = last.gather(bytes)
            self.append(last)
            if isGathered { return }
        }
        self.append(bytes.trimmed)
    }
}
