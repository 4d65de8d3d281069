public import NIOCore

/// Cuts stream 0 into messages.
public struct ControlMessageDecoder {
    private var pending = ByteBuffer()

    public init() {}

    public mutating func append(_ bytes: ByteBuffer) { self.pending.writeImmutableBuffer(bytes) }

    public enum Next: Equatable {
        case message(ControlMessage)
        /// To be answered with this failure; the stream goes on.
        case refused(ControlMessage.Failure)
        case needsMore
    }

    public mutating func next() throws(ControlError) -> Next {
        guard let length: UInt32 = self.pending.getInteger(at: self.pending.readerIndex) else { return .needsMore }
        guard length <= UInt32(ControlMessage.maxByteCount) else { throw ControlError("a control message over 64 KiB") }
        guard self.pending.readableBytes >= 4 + Int(length) else { return .needsMore }
        self.pending.moveReaderIndex(forwardBy: 4)
        guard let json = self.pending.readSlice(length: Int(length)) else { return .needsMore }
        defer {
            if self.pending.readableBytes == 0 { self.pending = ByteBuffer() } else { self.pending.discardReadBytes() }
        }
        switch try ControlMessage.decode(json) {
        case .message(let message): return .message(message)
        case .refused(let failure): return .refused(failure)
        }
    }
}
