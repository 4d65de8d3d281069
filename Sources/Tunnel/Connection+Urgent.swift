import NIOCore

/// TCP's urgent data. A STREAM frame's variant says that its last byte is urgent, so mark and byte are lost, sent again and
/// acknowledged together, and no byte is given out before it is known to be urgent.
extension Connection {
    /// Queues one urgent byte behind what was written before. For a peer that doesn't know such bytes it is left out, as TCP's
    /// urgent byte is for whoever reads without asking for it; of the first one there is an event.
    ///
    /// - Returns: as `write`.
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

    /// Whether the next byte that `read` gives is urgent. It is given alone.
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
        // Parsed frames have a byte.
        let mark = offset + UInt64(data.readableBytes) - 1
        guard let stream = self.streams[id], mark >= stream.takenOffset else { return }
        stream.urgentToRead.insert(mark)
    }
}

extension StreamState {
    /// What the application has taken so far.
    var takenOffset: UInt64 { self.receiveBuffer.next - UInt64(self.receiveBuffer.readyCount) }

    /// How many of so many bytes may be taken at once: those before the next urgent one, or that one.
    func countToTake(atMost count: Int) -> Int {
        let taken = self.takenOffset
        guard let mark = self.urgentToRead.first(from: taken) else { return count }
        return min(count, mark == taken ? 1 : Int(clamping: mark - taken))
    }
}
