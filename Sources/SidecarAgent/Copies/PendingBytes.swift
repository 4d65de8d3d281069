import NIOCore

/// What a copy has yet to write to its stream.
///
/// Large reads are kept as they are, and so share their memory with the client's own connection and with other copies. A small
/// read would keep alive the whole buffer into which it was read, so its bytes are copied, and gathered.
struct PendingBytes {
    private var chunks = CircularBuffer<ByteBuffer>(initialCapacity: 2)
    /// The last chunk is this queue's own: bytes can be added to it.
    private var lastIsOwn = false
    /// The memory that the chunks keep alive, in bytes.
    private(set) var capacity = 0

    static let small = 4 * 1_024
    private static let gatheredAtMost = 64 * 1_024

    var isEmpty: Bool { self.chunks.isEmpty }

    mutating func append(_ bytes: ByteBuffer) {
        let count = bytes.readableBytes
        // Taken out of the queue, since bytes that two variables share are copied before they change.
        if self.lastIsOwn, count <= Self.small, var last = self.chunks.popLast() {
            let fits = last.readableBytes + count <= Self.gatheredAtMost
            if fits {
                self.capacity -= last.storageCapacity
                last.writeImmutableBuffer(bytes)
                self.capacity += last.storageCapacity
            }
            self.chunks.append(last)
            if fits { return }
        }
        self.lastIsOwn = count <= Self.small || count * 2 < bytes.storageCapacity
        var chunk = bytes
        if self.lastIsOwn {
            chunk = ByteBuffer()
            chunk.reserveCapacity(count)
            chunk.writeImmutableBuffer(bytes)
        }
        self.capacity += chunk.storageCapacity
        self.chunks.append(chunk)
    }

    mutating func popFirst() -> ByteBuffer? {
        guard let first = self.chunks.popFirst() else { return nil }
        self.capacity -= first.storageCapacity
        if self.chunks.isEmpty { self.lastIsOwn = false }
        return first
    }

    mutating func removeAll() { self = PendingBytes() }
}
