public import NIOCore

/// Identifies a sent datagram in `.datagramAcknowledged`.
public struct DatagramID: Hashable, Sendable {
    let rawValue: UInt64
}

/// The DATAGRAM frames of one connection (RFC 9221): those that wait to be sent, and those received that the application has
/// not taken.
///
/// Both queues are bounded, and drop their oldest datagram for a new one: a datagram that has waited long is worth less than
/// one that has just come.
struct DatagramFrames {
    struct Outgoing {
        var id: DatagramID
        var isTracked: Bool
        var payload: ByteBuffer
    }

    private(set) var outgoing = Queue<Outgoing>()
    private(set) var incoming = Queue<ByteBuffer>()
    private var nextID: UInt64 = 0
    /// The largest DATAGRAM frame that the peer takes; 0: none.
    private(set) var peerFrameSize: UInt64 = 0
    /// How many bytes of frames one message on a byte stream holds.
    private(set) var streamMessageRoom = 0
    /// `.datagramsReadable` is queued, and the owner has not taken it yet.
    fileprivate(set) var readableIsSignalled = false
    /// Datagrams were written since streams last went first: in the next message, streams that wait go first.
    fileprivate var wentFirst = false

    /// A first-in first-out queue with a bound in bytes.
    struct Queue<Element> {
        private var elements = CircularBuffer<(element: Element, size: Int)>()
        private(set) var byteCount = 0

        var isEmpty: Bool { self.elements.isEmpty }
        var count: Int { self.elements.count }
        var first: Element? { self.elements.first?.element }

        /// - Returns: how many of the oldest were dropped.
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

    mutating func setLimits(peerFrameSize: UInt64, streamMessageRoom: Int) {
        self.peerFrameSize = peerFrameSize
        self.streamMessageRoom = streamMessageRoom
    }

    /// The owner has taken `.datagramsReadable`.
    mutating func readableIsTaken() { self.readableIsSignalled = false }

    mutating func enqueue(_ payload: ByteBuffer, isTracked: Bool) -> (DatagramID, dropped: UInt64) {
        let id = DatagramID(rawValue: self.nextID)
        self.nextID += 1
        let entry = Outgoing(id: id, isTracked: isTracked, payload: payload)
        return (id, self.outgoing.append(entry, payload: payload.readableBytes))
    }

    /// Copies the payload into a buffer of its own: a short datagram must not keep the whole message's buffer alive.
    mutating func receive(_ payload: ByteBuffer) -> UInt64 {
        var own = ByteBuffer()
        own.reserveCapacity(payload.readableBytes)
        own.writeImmutableBuffer(payload)
        return self.incoming.append(own, payload: payload.readableBytes)
    }

    mutating func takeOutgoing() -> Outgoing? { self.outgoing.popFirst() }
    mutating func takeIncoming() -> ByteBuffer? { self.incoming.popFirst() }

    /// Drops all datagrams that wait to be sent, and returns how many there were.
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
    /// It must fit into one message, with the frame's type and length, and into the peer's max_datagram_frame_size.
    public var greatestDatagram: Int {
        let frame = Int(min(UInt64(self.datagramRoom), self.datagrams.peerFrameSize))
        // One byte for the type, then the length, whose own size depends on its value.
        for lengthSize in [1, 2, 4] {
            let payload = max(0, frame - 1 - lengthSize)
            if VarInt.byteCount(UInt64(payload)) <= lengthSize { return payload }
        }
        return 0
    }

    /// How many bytes of frames one message holds on the carrier in use.
    ///
    /// On a byte stream that follows from both sides' max_message_size, on datagrams from the path's MTU.
    var datagramRoom: Int {
        guard let mtu = self.recovery?.mtu.current else { return self.datagrams.streamMessageRoom }
        return (mtu - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
    }

    /// Queues a datagram: it goes out once, and is never sent again (RFC 9221 §5.2).
    ///
    /// The queue holds 1 MiB; beyond that the oldest datagram is dropped and counted in `statistics`.
    ///
    /// - Parameter isTracked: `.datagramAcknowledged` reports that the peer has it. A loss is never reported.
    /// - Returns: nil when the datagram was not taken: it is longer than `greatestDatagram`, the peer takes none or is gone,
    ///   or the connection is over.
    @discardableResult
    public mutating func sendDatagram(_ payload: ByteBuffer, isTracked: Bool = false) -> DatagramID? {
        guard self.isActive, self.presence != .gone, self.takesDatagrams, payload.readableBytes <= self.greatestDatagram
        else { return nil }
        let (id, dropped) = self.datagrams.enqueue(payload, isTracked: isTracked)
        self.statistics.datagramsDropped += dropped
        return id
    }

    /// Whether the peer takes DATAGRAM frames at all: the shortest has two bytes.
    public var takesDatagrams: Bool { self.datagrams.peerFrameSize >= 2 }

    /// Takes the next received datagram; nil when there is none. `.datagramsReadable` says when to call it.
    public mutating func nextDatagram() -> ByteBuffer? { self.datagrams.takeIncoming() }

    // MARK: Frames

    /// RFC 9221 §3: no frame may be longer than we announced, its type and length included.
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

    /// Called before stream frames are written, and again after them. In every second message, streams that wait go first, so
    /// that neither starves the other.
    mutating func writeDatagrams(into body: inout ByteBuffer, end: Int, message: inout SentMessage, streamsWait: Bool) {
        if streamsWait, self.datagrams.wentFirst {
            self.datagrams.wentFirst = false
            return
        }
        while let next = self.datagrams.outgoing.first {
            let count = next.payload.readableBytes
            guard count <= self.greatestDatagram else {
                // The path's MTU has fallen since the datagram was queued.
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

    /// Takes over the size limits of a session that the connection begins to use.
    mutating func noteDatagramLimits(of session: Session) {
        let size = min(session.peerParameters.maxMessageSize, self.configuration.maxMessageSize)
        self.datagrams.setLimits(
            peerFrameSize: session.peerParameters.maxDatagramFrameSize,
            streamMessageRoom: (size - Constants.dataOverhead) & ~(Constants.paddingUnit - 1)
        )
    }
}
