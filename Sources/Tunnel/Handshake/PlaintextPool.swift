import NIOCore
import Noise

/// Buffers for opened messages. One whose bytes the application still holds isn't reused until it is released.
struct PlaintextPool {
    private var free: [ByteBuffer] = []
    private static let kept = 16

    /// A buffer with room to open a data message of `size` bytes.
    mutating func take(forMessageOf size: Int) -> ByteBuffer {
        var buffer = self.free.popLast() ?? ByteBuffer()
        buffer.clear(minimumCapacity: CipherState.roomToOpen(max(0, size - Constants.dataHeaderSize)))
        return buffer
    }

    mutating func giveBack(_ buffer: ByteBuffer) {
        if self.free.count < Self.kept { self.free.append(buffer) }
    }
}
