import NIOCore

/// Buffers that messages are opened into. One whose bytes the application still holds isn't taken again until it lets go.
struct PlaintextPool {
    private var free: [ByteBuffer] = []
    private static let kept = 16

    mutating func take(_ capacity: Int) -> ByteBuffer {
        var buffer = self.free.popLast() ?? ByteBuffer()
        buffer.clear(minimumCapacity: capacity)
        return buffer
    }

    mutating func giveBack(_ buffer: ByteBuffer) {
        if self.free.count < Self.kept { self.free.append(buffer) }
    }
}
