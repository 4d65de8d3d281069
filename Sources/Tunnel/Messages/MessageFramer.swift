public import NIOCore

/// Cuts a byte stream into messages: u32 length, then the message (PROTOCOL, carriers).
///
/// Until the peer has sent a valid initiation, a length that can't be an initiation's ends the reading, but not the carrier:
/// everything after it is discarded, nothing is answered and nothing is allocated for it.
public struct MessageFramer: ~Copyable {
    public enum Next {
        case message(ByteBuffer)
        case needsMore
        /// A length that no valid peer sends after the handshake: close the carrier.
        case violation
    }

    enum Phase {
        /// A responder's carrier before the handshake: only initiations may come.
        case awaitingInitiation
        /// After the handshake: all four message types may come, up to the size that we announced.
        case open
        /// A stranger's carrier: everything is read and discarded.
        case discarding
    }

    private(set) var phase: Phase
    private let maxMessageSize: Int
    /// Bytes read that are not cut into messages yet.
    private var incoming = ByteBuffer()
    /// The beginning of an incomplete message, in a buffer of its own, so that the buffer it was read into is free again.
    private var partial = ByteBuffer()

    /// - Parameter maxMessageSize: what we announce as `max_message_size`.
    public init(role: Role, maxMessageSize: Int) {
        self.phase = role == .responder ? .awaitingInitiation : .open
        self.maxMessageSize = maxMessageSize
    }

    /// Called once a valid initiation has come on this carrier.
    public mutating func open() { if self.phase == .awaitingInitiation { self.phase = .open } }

    /// The carrier is no longer needed: what still comes is discarded.
    public mutating func discard() {
        self.phase = .discarding
        self.incoming = ByteBuffer()
        self.partial = ByteBuffer()
    }

    /// Takes bytes that were read. Call `next()` until it needs more before the next call.
    public mutating func append(_ bytes: consuming ByteBuffer) {
        if self.phase == .discarding { return }
        if self.incoming.readableBytes == 0 {
            self.incoming = bytes
        } else {
            self.incoming.writeBuffer(&bytes)
        }
    }

    public mutating func next() -> Next {
        if self.phase == .discarding { return .needsMore }
        if self.partial.readableBytes > 0 { return self.nextFromPartial() }
        guard let length: UInt32 = self.incoming.getInteger(at: self.incoming.readerIndex) else {
            return self.keepRest(capacity: 4)
        }
        if let refusal = self.refusal(length) { return refusal }
        let size = Int(length)
        guard self.incoming.readableBytes >= 4 + size else { return self.keepRest(capacity: 4 + size) }
        self.incoming.moveReaderIndex(forwardBy: 4)
        return self.incoming.readSlice(length: size).map { .message($0) } ?? .needsMore
    }

    private mutating func nextFromPartial() -> Next {
        self.fillPartial(to: 4)
        guard let length: UInt32 = self.partial.getInteger(at: self.partial.readerIndex) else { return .needsMore }
        if let refusal = self.refusal(length) { return refusal }
        let size = Int(length)
        self.partial.reserveCapacity(4 + size)
        self.fillPartial(to: 4 + size)
        guard self.partial.readableBytes == 4 + size else { return .needsMore }
        var message = self.partial
        self.partial = ByteBuffer()
        message.moveReaderIndex(forwardBy: 4)
        return .message(message)
    }

    private mutating func fillPartial(to count: Int) {
        let lacking = max(0, count - self.partial.readableBytes)
        if var piece = self.incoming.readSlice(length: min(lacking, self.incoming.readableBytes)) {
            self.partial.writeBuffer(&piece)
        }
        if self.incoming.readableBytes == 0 { self.incoming = ByteBuffer() }
    }

    private mutating func keepRest(capacity: Int) -> Next {
        if self.incoming.readableBytes > 0 {
            self.partial.reserveCapacity(capacity)
            self.partial.writeBuffer(&self.incoming)
        }
        self.incoming = ByteBuffer()
        return .needsMore
    }

    /// What follows from a length that no message may have; nil: the length is allowed.
    private mutating func refusal(_ length: UInt32) -> Next? {
        switch self.phase {
        case .awaitingInitiation where !Constants.initiationSizes.contains(Int(length)):
            self.discard()
            return .needsMore
        case .open where Int(length) < Constants.dataOverhead || Int(length) > self.maxMessageSize:
            return .violation
        default: return nil
        }
    }

    /// Writes a message with its length before it; nothing is written when the body returns nil.
    public static func frame<Result>(
        into output: inout ByteBuffer,
        body: (inout ByteBuffer) -> Result?
    ) -> Result? {
        let start = output.writerIndex
        output.writeInteger(UInt32(0))
        guard let result = body(&output) else {
            output.moveWriterIndex(to: start)
            return nil
        }
        output.setInteger(UInt32(output.writerIndex - start - 4), at: start)
        return result
    }
}
