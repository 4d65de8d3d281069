public import NIOCore

/// Splits stream 0 into messages.
public struct ControlMessageDecoder: Sendable {
    private var pending = ByteBuffer()
    private var failure: ControlError?

    public init() {}

    /// Adds received bytes, all of which are kept until `next()` is called. So read a bounded piece, then call `next()`
    /// until it needs more.
    public mutating func append(_ bytes: ByteBuffer) {
        if self.failure == nil { self.pending.writeImmutableBuffer(bytes) }
    }

    public enum Next: Equatable, Sendable {
        case message(ControlMessage)
        /// Send this failure to the peer; the stream goes on.
        case refused(ControlMessage.Failure)
        case needsMore
    }

    /// The next message, if it is complete. After an error the stream is unusable: the error is thrown again by each
    /// further call.
    public mutating func next() throws(ControlError) -> Next {
        if let failure = self.failure { throw failure }
        do throws(ControlError) {
            guard let json = try self.nextJSON() else {
                self.compact()
                return .needsMore
            }
            switch try DecodedControlMessage(json: json) {
            case .message(let message): return .message(message)
            case .refused(let failure): return .refused(failure)
            }
        } catch {
            self.failure = error
            self.pending = ByteBuffer()
            throw error
        }
    }

    private mutating func nextJSON() throws(ControlError) -> ByteBuffer? {
        guard let length: UInt32 = self.pending.getInteger(at: self.pending.readerIndex) else { return nil }
        guard length <= UInt32(ControlMessage.maxByteCount) else { throw ControlError("a control message over 64 KiB") }
        let size = MemoryLayout<UInt32>.size
        guard let json = self.pending.getSlice(at: self.pending.readerIndex + size, length: Int(length)) else {
            return nil
        }
        self.pending.moveReaderIndex(forwardBy: size + Int(length))
        return json
    }

    /// Called when no complete message is left, not after each one: moving the rest each time would cost quadratic time for
    /// many small messages in one piece. It also frees the memory of a large piece.
    private mutating func compact() {
        guard self.pending.readerIndex > 0 else { return }
        var rest = ByteBuffer()
        rest.writeImmutableBuffer(self.pending)
        self.pending = rest
    }
}
