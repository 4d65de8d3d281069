import NIOCore
import Noise

/// Writes and checks the outer parts of handshake messages, for both sides (PROTOCOL, outer messages).
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

    /// Appends mac1 over the bytes in the buffer, then mac2, which is zero without a cookie. Returns mac1.
    @discardableResult
    static func appendMacs(_ key: MacKey, cookie: Cookie? = nil, to bytes: inout ByteBuffer) -> Mac128 {
        let mac1 = key.mac(bytes.readableBytesSpan)
        bytes.writeWithOutputRawSpan(minimumWritableBytes: self.mac) { mac1.write(into: &$0) }
        let mac2 = cookie.map { $0.mac(bytes.readableBytesSpan) } ?? .zero
        bytes.writeWithOutputRawSpan(minimumWritableBytes: self.mac) { mac2.write(into: &$0) }
        return mac1
    }

    /// Whether mac2 was made with this cookie, over all bytes before it.
    static func hasMac2(_ message: ByteBuffer, of cookie: Cookie) -> Bool {
        let covered = message.readableBytes - self.mac
        guard covered > 0, let body = message.getSlice(at: message.readerIndex, length: covered),
            let mac2 = message.getSlice(at: message.readerIndex + covered, length: self.mac)
        else { return false }
        return cookie.mac(body.readableBytesSpan).matches(mac2.readableBytesSpan)
    }

    static func mac1(of message: ByteBuffer) -> Mac128? {
        let at = message.readerIndex + message.readableBytes - self.macs
        guard at >= message.readerIndex else { return nil }
        return message.getSlice(at: at, length: self.mac).flatMap { Mac128($0.readableBytesSpan) }
    }

    static func hasValidMac1(_ message: ByteBuffer, _ key: MacKey) -> Bool {
        let covered = message.readableBytes - self.macs
        guard covered > 0, let body = message.getSlice(at: message.readerIndex, length: covered),
            let mac1 = message.getSlice(at: message.readerIndex + covered, length: self.mac)
        else { return false }
        return key.mac(body.readableBytesSpan).matches(mac1.readableBytesSpan)
    }

    /// The Noise message between an outer header of `header` bytes and the macs.
    static func noisePart(of message: ByteBuffer, header: Int) -> ByteBuffer? {
        let count = message.readableBytes - header - self.macs
        return count > 0 ? message.getSlice(at: message.readerIndex + header, length: count) : nil
    }

    // MARK: Cookie replies

    /// Type, receiver index, nonce, sealed cookie.
    static func writeCookieReply(
        _ cookie: Cookie,
        to receiver: UInt32,
        answering mac1: Mac128,
        _ key: CookieKey,
        random: RandomSource
    ) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.reserveCapacity(Constants.cookieReplySize)
        bytes.writeInteger(OuterMessageType.cookieReply.rawValue, endianness: .little)
        bytes.writeInteger(receiver, endianness: .little)
        for _ in 0..<CookieKey.nonceByteCount / 8 { bytes.writeInteger(random.next()) }
        let nonce = bytes.getSlice(at: self.initiationHeader, length: CookieKey.nonceByteCount) ?? ByteBuffer()
        bytes.writeWithOutputRawSpan(minimumWritableBytes: CookieKey.sealedByteCount) { output in
            key.seal(cookie: cookie, nonce: nonce.readableBytesSpan, mac1: mac1, into: &output)
        }
        return bytes
    }

    static func readCookieReply(_ message: ByteBuffer, answering mac1: Mac128, _ key: CookieKey) -> Cookie? {
        let nonceAt = message.readerIndex + self.initiationHeader
        guard message.readableBytes == Constants.cookieReplySize,
            let nonce = message.getSlice(at: nonceAt, length: CookieKey.nonceByteCount),
            let sealed = message.getSlice(
                at: nonceAt + CookieKey.nonceByteCount,
                length: CookieKey.sealedByteCount
            )
        else { return nil }
        return key.open(sealed.readableBytesSpan, nonce: nonce.readableBytesSpan, mac1: mac1)
    }
}

/// A received initiation of which only the mac1 has been checked.
struct ReceivedInitiation {
    let message: ByteBuffer
    let remoteIndex: UInt32
    let noise: ByteBuffer

    var size: Int { self.message.readableBytes }

    /// nil: see `whyNot`.
    init?(_ message: ByteBuffer, _ key: MacKey) {
        guard let (remoteIndex, noise) = Self.parts(message), HandshakeMessage.hasValidMac1(message, key) else {
            return nil
        }
        self.message = message
        self.remoteIndex = remoteIndex
        self.noise = noise
    }

    /// Why a message is no valid initiation.
    static func whyNot(_ message: ByteBuffer) -> DropReason { self.parts(message) == nil ? .malformed : .wrongMac1 }

    private static func parts(_ message: ByteBuffer) -> (UInt32, ByteBuffer)? {
        guard Constants.initiationSizes.contains(message.readableBytes),
            let remoteIndex: UInt32 = message.headerInteger(at: 4),
            let noise = HandshakeMessage.noisePart(of: message, header: HandshakeMessage.initiationHeader)
        else { return nil }
        return (remoteIndex, noise)
    }
}
