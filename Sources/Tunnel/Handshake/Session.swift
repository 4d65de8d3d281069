import NIOCore
import Noise

/// The result of one handshake: two keys and two indices. A connection uses many sessions, one after the other.
///
/// A class, so that each session exists once. The counter used as nonce belongs to the connection and rises over all its
/// sessions; the keys are erased when the last reference goes.
final class Session {
    let localIndex: UInt32
    let remoteIndex: UInt32
    /// When the initiation (at the initiator) or the response (at the responder) was sent: the age of the session counts from
    /// here.
    let createdAt: Instant
    /// What the peer announced in this session's handshake.
    let peerParameters: TransportParameters
    private let sendingKey: CipherState
    private let receivingKey: CipherState
    // Exclusivity checks are off: only the session's connection uses it, one call at a time.
    @exclusivity(unchecked) private var replay = ReplayWindow()
    @exclusivity(unchecked) private var sealed: UInt64 = 0
    @exclusivity(unchecked) private var failedOpens: UInt64 = 0

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

    /// Whether the initiator should start a new handshake.
    func wantsRekey(at now: Instant) -> Bool {
        now >= self.createdAt + Constants.rekeyAfterTime || self.sealed >= Constants.rekeyAfterMessages
    }

    /// Too many messages failed to open with this key (RFC 9001 §6.6): it must be erased.
    var isWornOut: Bool { self.failedOpens >= Constants.failedOpensLimit }

    /// Opens a data message with this header into `plaintext`, which is empty. Marks the counter only if the message opens.
    ///
    /// Returns why it was dropped; nil: it opened.
    func open(
        _ message: ByteBuffer,
        _ header: DataHeader,
        into plaintext: inout ByteBuffer,
        at now: Instant
    ) -> DropReason? {
        let counter = header.counter
        guard counter <= Constants.greatestCounter else { return .malformed }
        guard !self.isExpired(at: now), !self.isWornOut else { return .keyTooOld }
        guard self.replay.isFresh(counter) else { return .replayed }
        var opened = false
        let sealed = message.readableBytesSpan.extracting(droppingFirst: Constants.dataHeaderSize)
        plaintext.writeWithOutputRawSpan(minimumWritableBytes: CipherState.roomToOpen(sealed.byteCount)) { output in
            opened = self.receivingKey.open(sealed, counter: counter, into: &output)
        }
        guard opened else {
            self.failedOpens += 1
            return .notOpened
        }
        self.replay.mark(counter)
        return nil
    }

    /// Seals, in place, the message that begins at `start` in `buffer`: room for the header, the frames, and room for the
    /// tag. Writes header and tag.
    ///
    /// It is fastest if other messages precede it in the buffer, and if `CipherState.roomBehind` more bytes can be written.
    func seal(messageAt start: Int, in buffer: inout ByteBuffer, counter: UInt64) {
        self.sealed += 1
        let (reader, writer) = (buffer.readerIndex, buffer.writerIndex)
        let headerStart = min(start, CipherState.roomBefore)
        buffer.moveReaderIndex(to: start - headerStart)
        buffer.moveWriterIndex(forwardBy: min(buffer.writableBytes, CipherState.roomBehind - Constants.tagSize))
        var bytes = buffer.mutableReadableBytesSpan
        DataHeader.write(receiver: self.remoteIndex, counter: counter, into: &bytes, at: headerStart)
        let framesStart = headerStart + Constants.dataHeaderSize
        let framesEnd = headerStart + (writer - start) - Constants.tagSize
        self.sendingKey.sealInPlace(&bytes, at: framesStart..<framesEnd, counter: counter)
        buffer.moveWriterIndex(to: writer)
        buffer.moveReaderIndex(to: reader)
    }
}

/// Which counters of a session have been seen: RFC 6479's ring of words, 8,128 wide as WireGuard's.
///
/// Call `isFresh` before opening a message, and `mark` after it has opened: a forged counter must change nothing.
struct ReplayWindow: ~Copyable {
    static let wordCount = 128
    /// One word less than the ring, so that a word can be cleared before it is used again.
    static let width = UInt64((wordCount - 1) * 64)

    private var words: [UInt64]
    private var next: UInt64 = 0

    init() { self.words = Array(repeating: 0, count: Self.wordCount) }

    func isFresh(_ counter: UInt64) -> Bool {
        if counter >= self.next { return true }
        if self.next - counter > Self.width { return false }
        let word = Int(truncatingIfNeeded: counter / 64) % Self.wordCount
        return self.words[word] & (1 << (counter % 64)) == 0
    }

    /// Only for a counter that is fresh, of a message that has opened.
    mutating func mark(_ counter: UInt64) {
        if counter >= self.next {
            let previous = self.next == 0 ? 0 : (self.next - 1) / 64
            let current = counter / 64
            // Words between the highest counter so far and this one are cleared; a jump past the whole ring clears all.
            let steps = min(current - previous, UInt64(Self.wordCount))
            for step in 0..<steps {
                self.words[Int(truncatingIfNeeded: current - step) % Self.wordCount] = 0
            }
            self.next = counter + 1
        }
        self.words[Int(truncatingIfNeeded: counter / 64) % Self.wordCount] |= 1 << (counter % 64)
    }
}

/// Buffers for opened messages. One whose bytes the application still holds isn't reused until it is released.
struct PlaintextPool {
    private var free: [ByteBuffer] = []
    private static let kept = 16

    /// A buffer with room to open a data message of `size` bytes.
    mutating func take(forMessageOf size: Int) -> ByteBuffer {
        var buffer = self.free.popLast() ?? ByteBuffer()
        buffer.clear(minimumCapacity: CipherState.roomToOpen(max(0, size - Constants.dataHeaderSize)))
        return buffer
    }

    mutating func giveBack(_ buffer: ByteBuffer) {
        if self.free.count < Self.kept { self.free.append(buffer) }
    }
}
