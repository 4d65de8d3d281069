public import NIOCore

/// A flow's stream, for payloads that no message holds: each after its length as u16 (PROTOCOL, UDP services).
public struct LengthPrefixedPayloads {
    /// Of one payload: what the length can say.
    public static let greatestPayload = Int(UInt16.max)
    private var bytes = ByteBuffer()

    public init() {}

    /// How many bytes are wanted next, so that no more than one payload is ever held.
    public var wanted: Int {
        guard let length: UInt16 = self.bytes.getInteger(at: self.bytes.readerIndex) else {
            return 2 - self.bytes.readableBytes
        }
        return 2 + Int(length) - self.bytes.readableBytes
    }

    /// - Parameter bytes: at most as many as were wanted.
    public mutating func append(_ bytes: ByteBuffer) { self.bytes.writeImmutableBuffer(bytes) }

    /// The payload, once all of it is there.
    public mutating func next() -> ByteBuffer? {
        guard self.wanted <= 0, let length: UInt16 = self.bytes.readInteger(),
            let payload = self.bytes.readSlice(length: Int(length))
        else { return nil }
        // Handed on as a whole: what comes next goes into another buffer.
        if self.bytes.readableBytes == 0 { self.bytes = ByteBuffer() }
        return payload
    }

    /// nil: it is too long.
    public static func frame(_ payload: ByteBuffer) -> ByteBuffer? {
        guard let length = UInt16(exactly: payload.readableBytes) else { return nil }
        var bytes = ByteBuffer()
        bytes.reserveCapacity(2 + payload.readableBytes)
        bytes.writeInteger(length)
        bytes.writeImmutableBuffer(payload)
        return bytes
    }
}
