public import NIOCore

/// The format of a flow's stream, for payloads too large for one message: each after its u16 length (PROTOCOL, UDP services).
public struct LengthPrefixedPayloads {
    private var bytes = ByteBuffer()

    public init() {}

    /// How many bytes to read next, so that never more than one payload is held.
    public var wanted: Int {
        guard let length: UInt16 = self.bytes.getInteger(at: self.bytes.readerIndex) else {
            return 2 - self.bytes.readableBytes
        }
        return 2 + Int(length) - self.bytes.readableBytes
    }

    /// - Parameter bytes: at most `wanted` bytes.
    public mutating func append(_ bytes: ByteBuffer) { self.bytes.writeImmutableBuffer(bytes) }

    /// The payload, once it is complete.
    public mutating func next() -> ByteBuffer? {
        guard self.wanted <= 0, let length: UInt16 = self.bytes.readInteger(),
            let payload = self.bytes.readSlice(length: Int(length))
        else { return nil }
        // The payload keeps this buffer; the next bytes go into another one.
        if self.bytes.readableBytes == 0 { self.bytes = ByteBuffer() }
        return payload
    }

    /// nil if the payload is too long.
    public static func frame(_ payload: ByteBuffer) -> ByteBuffer? {
        guard let length = UInt16(exactly: payload.readableBytes) else { return nil }
        var bytes = ByteBuffer()
        bytes.reserveCapacity(2 + payload.readableBytes)
        bytes.writeInteger(length)
        bytes.writeImmutableBuffer(payload)
        return bytes
    }
}
