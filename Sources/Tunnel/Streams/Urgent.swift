import NIOCore

/// The offsets of the urgent bytes of one direction, rising.
///
/// TCP has one urgent pointer: when a newer urgent byte comes, an older one that was not read becomes an ordinary byte. Here
/// the latest 16 keep their mark and only earlier ones lose it, so a sender can't fill the memory.
public struct UrgentMarks: Sendable {
    private var offsets: [UInt64] = []

    /// † A server that gets two urgent bytes at once loses the mark of the first anyway.
    static let kept = 16

    public init() {}

    public var isEmpty: Bool { self.offsets.isEmpty }
    var count: Int { self.offsets.count }

    public mutating func insert(_ offset: UInt64) {
        // Nearly always the new offset is the highest.
        var at = self.offsets.count
        while at > 0, self.offsets[at - 1] >= offset {
            if self.offsets[at - 1] == offset { return }
            at -= 1
        }
        self.offsets.insert(offset, at: at)
        if self.offsets.count > Self.kept { self.offsets.removeFirst() }
    }

    public func first(from start: UInt64) -> UInt64? { self.offsets.first { $0 >= start } }

    public mutating func remove(below end: UInt64) { self.offsets.removeAll { $0 < end } }

    public mutating func removeAll() { self.offsets.removeAll() }
}

/// TCP's urgent data. URGENT_STREAM is a STREAM frame whose last byte is urgent, so that byte and mark are lost, sent again
/// and acknowledged together, and the receiver never delivers an urgent byte before it knows that it is one.
extension Connection {
    /// Queues one urgent byte behind the bytes written before. If the peer takes no urgent data the byte is dropped, as TCP
    /// drops it for a reader that doesn't ask for it, and `.urgentLeftOut` reports the first one.
    ///
    /// - Returns: what `write` returns.
    @discardableResult
    public mutating func writeUrgent(_ byte: UInt8, to id: StreamID) -> Bool {
        guard let stream = self.streams[id], stream.mayBeWritten else { return true }
        guard self.peerTakesUrgent else {
            if !self.urgentWasLeftOut { self.events.append(.urgentLeftOut) }
            self.urgentWasLeftOut = true
            return self.write(ByteBuffer(), to: id)
        }
        stream.urgentToSend.insert(stream.sendBuffer.end)
        return self.write(ByteBuffer(integer: byte), to: id)
    }

    /// Whether the next byte that `read` returns is urgent. It is returned alone.
    public mutating func urgentIsNext(_ id: StreamID) -> Bool {
        guard let stream = self.streams[id], !stream.urgentToRead.isEmpty, stream.receiveBuffer.readyCount > 0 else {
            return false
        }
        return stream.urgentToRead.first(from: stream.takenOffset) == stream.takenOffset
    }

    mutating func receiveUrgentStream(
        _ id: StreamID,
        offset: UInt64,
        data: ByteBuffer,
        fin: Bool
    ) throws(TransportError) {
        guard self.configuration.takesUrgent else {
            throw TransportError(.frameEncodingError, "an urgent byte, though none was asked for")
        }
        if id == .control { throw TransportError(.controlError, "an urgent byte on the control stream") }
        try self.receiveStream(id, offset: offset, data: data, fin: fin)
        // The parser has checked that the frame has at least one byte.
        let mark = offset + UInt64(data.readableBytes) - 1
        guard let stream = self.streams[id], mark >= stream.takenOffset else { return }
        stream.urgentToRead.insert(mark)
    }
}

extension StreamState {
    /// The offset of the next byte that the application takes.
    var takenOffset: UInt64 { self.receiveBuffer.next - UInt64(self.receiveBuffer.readyCount) }

    /// How many of `count` bytes may be taken at once: those before the next urgent byte, or that byte alone.
    func countToTake(atMost count: Int) -> Int {
        let taken = self.takenOffset
        guard let mark = self.urgentToRead.first(from: taken) else { return count }
        return min(count, mark == taken ? 1 : Int(clamping: mark - taken))
    }
}
