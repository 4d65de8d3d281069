import NIOCore
import Noise

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
