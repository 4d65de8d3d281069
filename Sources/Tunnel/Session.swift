import NIOCore
import Noise

/// What one handshake made: two keys and two indices. A connection lives through many sessions.
///
/// A class, so that there is one of each: the counter that is the nonce belongs to the connection, and rises over all its
/// sessions; the keys are wiped when the last reference goes.
final class Session {
    let localIndex: UInt32
    let remoteIndex: UInt32
    /// When the initiation (initiator) or the response (responder) was sent: the age counts from here.
    let createdAt: Instant
    /// What the peer announced in this session's handshake.
    let peerParameters: TransportParameters
    private let sendingKey: CipherState
    private let receivingKey: CipherState
    private var replay = ReplayWindow()
    private var sealed: UInt64 = 0
    private var failedOpens: UInt64 = 0

    init(
        localIndex: UInt32,
        remoteIndex: UInt32,
        createdAt: Instant,
        peerParameters: TransportParameters,
        sendingKey: consuming CipherState,
        receivingKey: consuming CipherState
    ) {
        self.localIndex = localIndex
        self.remoteIndex = remoteIndex
        self.createdAt = createdAt
        self.peerParameters = peerParameters
        self.sendingKey = sendingKey
        self.receivingKey = receivingKey
    }

    var expiresAt: Instant { self.createdAt + Constants.rejectAfterTime }

    func isExpired(at now: Instant) -> Bool { now >= self.expiresAt }

    /// Whether the initiator should shake hands anew.
    func wantsRekey(at now: Instant) -> Bool {
        now >= self.createdAt + Constants.rekeyAfterTime || self.sealed >= Constants.rekeyAfterMessages
    }

    /// Too many forgeries were tried against this key (RFC 9001 §6.6): it must be wiped.
    var isWornOut: Bool { self.failedOpens >= Constants.failedOpensLimit }

    enum Opened {
        case frames(ByteBuffer, number: UInt64)
        case dropped(DropReason)
    }

    /// Opens a data message into `plaintext`, whose content goes. Marks the counter only if it opened.
    func open(_ message: ByteBuffer, into plaintext: inout ByteBuffer, at now: Instant) -> (number: UInt64?, DropReason)
    {
        guard message.readableBytes >= Constants.dataOverhead,
            let counter: UInt64 = message.headerInteger(at: 8), counter <= Constants.greatestCounter
        else { return (nil, .malformed) }
        guard !self.isExpired(at: now), !self.isWornOut else { return (nil, .keyTooOld) }
        guard self.replay.isFresh(counter) else { return (nil, .replayed) }
        plaintext.clear()
        var opened = false
        var sealed = message
        sealed.moveReaderIndex(forwardBy: Constants.dataHeaderSize)
        let room = sealed.readableBytes - Constants.tagSize
        plaintext.writeWithOutputRawSpan(minimumWritableBytes: room) { output in
            opened = self.receivingKey.open(sealed.readableBytesSpan, counter: counter, into: &output)
        }
        guard opened else {
            self.failedOpens += 1
            return (nil, .notOpened)
        }
        self.replay.mark(counter)
        return (counter, .notOpened)
    }

    /// Seals the frames that stand in `buffer` from `start` + header on, in place; writes the header and the tag.
    func seal(messageAt start: Int, in buffer: inout ByteBuffer, counter: UInt64) {
        self.sealed += 1
        buffer.setInteger(OuterMessageType.data.rawValue, at: start, endianness: .little)
        buffer.setInteger(self.remoteIndex, at: start + 4, endianness: .little)
        buffer.setInteger(counter, at: start + 8, endianness: .little)
        buffer.writeRepeatingByte(0, count: Constants.tagSize)
        let reader = buffer.readerIndex
        buffer.moveReaderIndex(to: start + Constants.dataHeaderSize)
        var span = buffer.mutableReadableBytesSpan
        self.sendingKey.sealInPlace(&span, counter: counter)
        buffer.moveReaderIndex(to: reader)
    }
}
