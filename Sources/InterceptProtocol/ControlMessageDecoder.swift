public import NIOCore

/// Cuts stream 0 into messages.
public struct ControlMessageDecoder: Sendable {
    private var pending = ByteBuffer()
    private var failure: ControlError?

    public init() {}

    /// Takes what came. It keeps all of it until `next()` is called: read a bounded piece, then call that until it needs
    /// more.
    public mutating func append(_ bytes: ByteBuffer) {
        if self.failure == nil { self.pending.writeImmutableBuffer(bytes) }
    }

    public enum Next: Equatable, Sendable {
        case message(ControlMessage)
        /// To be answered with this failure; the stream goes on.
        case refused(ControlMessage.Failure)
        case needsMore
    }

    /// The next message, if all of it is there. An error is the stream's end: it is thrown again from then on.
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

    /// Not after each message: moving what is left would make many small messages in one piece cost their square. What a
    /// large piece took is given back.
    private mutating func compact() {
        guard self.pending.readerIndex > 0 else { return }
        var rest = ByteBuffer()
        rest.writeImmutableBuffer(self.pending)
        self.pending = rest
    }
}
