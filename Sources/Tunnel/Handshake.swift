import NIOCore
import Noise

/// What both sides need to write and check handshake messages' outer parts (PROTOCOL, outer messages).
enum HandshakeMessage {
    /// Type, sender index.
    static let initiationHeader = 8
    /// Type, sender index, receiver index.
    static let responseHeader = 12
    static let macs = 32
    static let mac = 16

    /// A `StaticString`'s bytes live as long as the program, so the span may be made from their address.
    static func withPrologue<Result: ~Copyable>(_ body: (RawSpan) -> Result) -> Result {
        let text = Constants.prologue
        let bytes = UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
        return body(bytes.bytes)
    }

    /// Appends mac1 over all that stands in the buffer, and a mac2 of zeros: on stream carriers there are no cookies.
    static func appendMacs(_ key: MacKey, to bytes: inout ByteBuffer) {
        let mac1 = key.mac(bytes.readableBytesSpan)
        bytes.writeWithOutputRawSpan(minimumWritableBytes: self.mac) { mac1.write(into: &$0) }
        bytes.writeRepeatingByte(0, count: self.mac)
    }

    static func hasValidMac1(_ message: ByteBuffer, _ key: MacKey) -> Bool {
        let covered = message.readableBytes - self.macs
        guard covered > 0, let body = message.getSlice(at: message.readerIndex, length: covered),
            let mac1 = message.getSlice(at: message.readerIndex + covered, length: self.mac)
        else { return false }
        return key.mac(body.readableBytesSpan).matches(mac1.readableBytesSpan)
    }

    /// The Noise message between an outer header of so many bytes and the macs.
    static func noisePart(of message: ByteBuffer, header: Int) -> ByteBuffer? {
        let count = message.readableBytes - header - self.macs
        return count > 0 ? message.getSlice(at: message.readerIndex + header, length: count) : nil
    }
}
