import NIOCore
import Noise

/// Buffers that messages are opened into. One whose bytes the application still holds isn't taken again until it lets go.
struct PlaintextPool {
    private var free: [ByteBuffer] = []
    private static let kept = 16

    /// With room to open a data message of so many bytes.
    mutating func take(forMessageOf size: Int) -> ByteBuffer {
        var buffer = self.free.popLast() ?? ByteBuffer()
        buffer.clear(minimumCapacity: CipherState.roomToOpen(max(0, size - Constants.dataHeaderSize)))
        return buffer
    }

    mutating func giveBack(_ buffer: ByteBuffer) {
        if self.free.count < Self.kept { self.free.append(buffer) }
    }
}
