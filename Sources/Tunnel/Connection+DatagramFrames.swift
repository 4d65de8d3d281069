public import NIOCore

/// What a sent datagram is called in the event of its acknowledgement.
public struct DatagramID: Hashable, Sendable {
    let rawValue: UInt64
}

/// The DATAGRAM frames of one connection (RFC 9221): what waits to go out, and what has come and was not taken.
///
/// Either queue is bounded, and loses its oldest for a new one: a datagram that has waited long is worth less than one that
/// has just come.
struct DatagramFrames {
    struct Outgoing {
        var id: DatagramID
        var isTracked: Bool
        var payload: ByteBuffer
    }

    private(set) var outgoing = Queue<Outgoing>()
    private(set) var incoming = Queue<ByteBuffer>()
    private var nextID: UInt64 = 0
    /// The greatest frame that the peer takes; 0: none.
    var peerFrameSize: UInt64 = 0
    /// Bytes of frames that a message on a byte stream holds.
    var streamMessageRoom = 0
    /// An event tells that some have come, until it was taken.
    var readableIsSignalled = false
    /// Streams had to stand back for datagrams in the message before.
    var wentFirst = false

    /// A first-in first-out queue with a bound in bytes.
    struct Queue<Element> {
        private var elements = CircularBuffer<(element: Element, size: Int)>()
        private(set) var byteCount = 0

        var isEmpty: Bool { self.elements.isEmpty }
        var count: Int { self.elements.count }
        var first: Element? { self.elements.first?.element }

        /// - Returns: how many of the oldest had to go.
        mutating func append(_ element: Element, payload: Int) -> UInt64 {
            let size = payload + Constants.datagramOverhead
            self.elements.append((element, size))
            self.byteCount += size
            var dropped: UInt64 = 0
            while self.byteCount > Constants.datagramsQueued, self.popFirst() != nil { dropped += 1 }
            return dropped
        }

        mutating func popFirst() -> Element? {
            guard let first = self.elements.popFirst() else { return nil }
            self.byteCount -= first.size
            return first.element
        }

        mutating func removeAll() { self = Queue() }
    }

    mutating func enqueue(_ payload: ByteBuffer, isTracked: Bool) -> (DatagramID, dropped: UInt64) {
        let id = DatagramID(rawValue: self.nextID)
        self.nextID += 1
        let entry = Outgoing(id: id, isTracked: isTracked, payload: payload)
        return (id, self.outgoing.append(entry, payload: payload.readableBytes))
    }

    /// The payload in a buffer of its own: a short one must not keep the whole message's alive.
    mutating func receive(_ payload: ByteBuffer) -> UInt64 {
        var own = ByteBuffer()
        own.reserveCapacity(payload.readableBytes)
        own.writeImmutableBuffer(payload)
        return self.incoming.append(own, payload: payload.readableBytes)
    }

    mutating func takeOutgoing() -> Outgoing? { self.outgoing.popFirst() }
    mutating func takeIncoming() -> ByteBuffer? { self.incoming.popFirst() }

    /// Returns how many there were.
    mutating func dropOutgoing() -> UInt64 {
        defer { self.outgoing.removeAll() }
        return UInt64(self.outgoing.count)
    }

    mutating func removeAll() {
        self.outgoing.removeAll()
        self.incoming.removeAll()
        self.readableIsSignalled = false
    }
}

/// Datagrams for the application: unreliable, unordered, each whole or not at all (RFC 9221 §5).
extension Connection {
    /// The longest payload that `sendDatagram` takes now, in bytes; 0: the peer takes no datagrams.
    ///
    /// What one message holds, beside the frame's type and length, and no more than the peer's max_datagram_frame_size.
    public var greatestDatagram: Int {
        let frame = Int(min(UInt64(self.datagramRoom), self.datagrams.peerFrameSize))
        // The type, then the length, which takes more bytes the greater it is.
        for lengthSize in [1, 2, 4] {
            let payload = max(0, frame - 1 - lengthSize)
            if VarInt.byteCount(UInt64(payload)) <= lengthSize { return payload }
        }
        return 0
    }

    /// Bytes of frames that a message to the peer holds on what carries the connection now.
    ///
    /// On a byte stream that follows from both sides' max_message_size; a carrier of datagrams has its path's MTU.
    var datagramRoom: Int {
        guard let mtu = self.recovery?.mtu.current else { return self.datagrams.streamMessageRoom }
        return (mtu - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
    }

    /// Queues a datagram: it goes out once, and is never sent again (RFC 9221 §5.2).
    ///
    /// Of what waits, 1 MiB is kept; beyond that the oldest is dropped and counted in `statistics`.
    ///
    /// - Parameter isTracked: `.datagramAcknowledged` tells when the peer has it. Nothing tells that it was lost.
    /// - Returns: nil when it was not taken: it has more bytes than `greatestDatagram`, the peer is gone, or the connection is
    ///   over.
    @discardableResult
    public mutating func sendDatagram(_ payload: ByteBuffer, isTracked: Bool = false) -> DatagramID? {
        guard self.isActive, self.presence != .gone, self.takesDatagrams, payload.readableBytes <= self.greatestDatagram
        else { return nil }
        let (id, dropped) = self.datagrams.enqueue(payload, isTracked: isTracked)
        self.statistics.datagramsDropped += dropped
        return id
    }

    /// Whether the peer has announced that it takes DATAGRAM frames at all: the shortest has two bytes.
    public var takesDatagrams: Bool { self.datagrams.peerFrameSize >= 2 }

    /// Takes the next datagram that has come; nil when there is none. `.datagramsReadable` tells when to ask.
    public mutating func nextDatagram() -> ByteBuffer? { self.datagrams.takeIncoming() }

    // MARK: Frames

    /// RFC 9221 §3: none may be longer than was announced, its type and length included.
    mutating func receiveDatagram(_ payload: ByteBuffer, frameSize: Int) throws(TransportError) {
        let limit = self.configuration.maxDatagramFrameSize
        guard limit > 0 else { throw TransportError(.protocolViolation, "a DATAGRAM that was not asked for") }
        guard frameSize <= limit else { throw TransportError(.protocolViolation, "a DATAGRAM longer than was allowed") }
        self.statistics.datagramsReceived += 1
        self.statistics.datagramsDropped += self.datagrams.receive(payload)
        guard !self.datagrams.readableIsSignalled else { return }
        self.datagrams.readableIsSignalled = true
        self.events.append(.datagramsReadable)
    }

    /// Called before the streams' turn and after it. In every second message streams that wait come first: neither starves
    /// the other.
    mutating func writeDatagrams(into body: inout ByteBuffer, end: Int, message: inout SentMessage, streamsWait: Bool) {
        if streamsWait, self.datagrams.wentFirst {
            self.datagrams.wentFirst = false
            return
        }
        while let next = self.datagrams.outgoing.first {
            let count = next.payload.readableBytes
            guard count <= self.greatestDatagram else {
                // The path has become narrower since it was taken.
                _ = self.datagrams.takeOutgoing()
                self.statistics.datagramsDropped += 1
                continue
            }
            guard 1 + VarInt.byteCount(UInt64(count)) + count <= end - body.writerIndex else { return }
            body.writeVarInt(FrameType.datagramTypes.upperBound)
            body.writeVarInt(UInt64(count))
            body.writeImmutableBuffer(next.payload)
            if next.isTracked { self.sent.collect(.datagram(next.id), for: &message) }
            _ = self.datagrams.takeOutgoing()
            self.datagrams.wentFirst = true
            self.statistics.datagramsSent += 1
        }
    }

    /// A session begins to be used: its parameters hold.
    mutating func noteDatagramLimits(of session: Session) {
        let size = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        self.datagrams.streamMessageRoom = (size - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
        self.datagrams.peerFrameSize = session.peerParameters.maxDatagramFrameSize
    }
}
