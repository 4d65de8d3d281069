import NIOCore

/// Received bytes of a stream that the application has not read yet, put in order.
///
/// A slice of an opened message is kept if it fills at least half of its buffer, and copied otherwise. So the memory in use
/// stays within a small factor of what flow control has promised, whatever pieces a peer sends.
struct ReceiveBuffer {
    /// Bytes in order, ready to be read.
    private var ready = CircularBuffer<ByteBuffer>.forFew
    /// Pieces beyond a gap, by rising offset, not overlapping.
    private var waiting: [(offset: UInt64, bytes: ByteBuffer)] = []
    /// The offset of the next byte in order.
    private(set) var next: UInt64 = 0
    private(set) var readyCount = 0
    /// The last buffer that was read was well filled, so the next one probably will be.
    private var isBulk = false

    var gapCount: Int { self.waiting.count }

    /// The memory really in use, for tests of the bounds: the capacity of all buffers, and an estimate of each one's
    /// overhead.
    var memoryInUse: Int {
        let each = 96
        return self.ready.reduce(0) { $0 + $1.storageCapacity + each }
            + self.waiting.reduce(0) { $0 + $1.bytes.storageCapacity + each }
    }

    /// Returns the change in the number of pieces beyond gaps.
    ///
    /// - Parameter hasRoom: the bounds allow a buffer with much more room than is filled at first.
    mutating func insert(_ bytes: ByteBuffer, at offset: UInt64, hasRoom: Bool = false) -> Int {
        var bytes = bytes
        var offset = offset
        if offset < self.next {
            let known = self.next - offset
            guard known < UInt64(bytes.readableBytes) else { return 0 }
            bytes.moveReaderIndex(forwardBy: Int(known))
            offset = self.next
        }
        if bytes.readableBytes == 0 { return 0 }
        if self.waiting.isEmpty, offset == self.next {
            self.appendReady(bytes, hasRoom: hasRoom)
            return 0
        }
        let before = self.waiting.count
        self.insertWaiting(bytes, at: offset)
        self.moveWaiting()
        return self.waiting.count - before
    }

    private mutating func appendReady(_ bytes: ByteBuffer, hasRoom: Bool = false) {
        let count = bytes.readableBytes
        self.next += UInt64(count)
        self.readyCount += count
        if hasRoom, self.isBulk, self.ready.isEmpty, Constants.bulkPieceAtLeast...ByteBuffer.smallPiece ~= count {
            self.ready.append(bytes.withRoomToGather)
        } else {
            self.ready.appendGathering(bytes)
        }
    }

    /// Inserts only bytes that are not there yet.
    private mutating func insertWaiting(_ bytes: ByteBuffer, at offset: UInt64) {
        var bytes = bytes
        var offset = offset
        var at = self.waiting.partitioningIndex { $0.offset + UInt64($0.bytes.readableBytes) > offset }
        while bytes.readableBytes > 0 {
            guard at < self.waiting.count else {
                self.place(bytes, at: offset, position: at)
                return
            }
            let other = self.waiting[at]
            let otherEnd = other.offset + UInt64(other.bytes.readableBytes)
            if offset < other.offset {
                let count = min(UInt64(bytes.readableBytes), other.offset - offset)
                guard let piece = bytes.readSlice(length: Int(count)) else { return }
                let added = self.place(piece, at: offset, position: at)
                offset += count
                at += added
            } else {
                let known = min(UInt64(bytes.readableBytes), otherEnd - offset)
                bytes.moveReaderIndex(forwardBy: Int(known))
                offset += known
                at += 1
            }
        }
    }

    /// Returns how many pieces were added: none if a small one was gathered into the piece before it.
    @discardableResult
    private mutating func place(_ bytes: ByteBuffer, at offset: UInt64, position: Int) -> Int {
        if position > 0,
            self.waiting[position - 1].offset + UInt64(self.waiting[position - 1].bytes.readableBytes) == offset,
            self.waiting[position - 1].bytes.gather(bytes)
        {
            return 0
        }
        self.waiting.insert((offset, bytes.trimmed), at: position)
        return 1
    }

    private mutating func moveWaiting() {
        var count = 0
        while count < self.waiting.count, self.waiting[count].offset == self.next {
            self.appendReady(self.waiting[count].bytes)
            count += 1
        }
        if count > 0 { self.waiting.removeFirst(count) }
    }

    /// Takes up to `count` bytes that are in order, without copying.
    mutating func take(atMost count: Int) -> ByteBuffer? {
        guard count > 0, let first = self.ready.first else { return nil }
        if first.readableBytes <= count {
            self.ready.removeFirst()
            self.readyCount -= first.readableBytes
            self.isBulk = first.readableBytes > ByteBuffer.gatheredAtMost / 2
            self.ready.giveBackRoom()
            return first
        }
        guard let piece = self.ready[self.ready.startIndex].readSlice(length: count) else { return nil }
        self.readyCount -= count
        return piece
    }

    /// Drops everything, and returns how many pieces beyond gaps there were.
    mutating func discard() -> Int {
        self.ready = .forFew
        self.readyCount = 0
        return self.discardBeyondGaps()
    }

    /// Drops the pieces beyond gaps, and returns how many there were.
    mutating func discardBeyondGaps() -> Int {
        let gaps = self.waiting.count
        self.waiting = []
        return gaps
    }
}

extension Array {
    /// The index of the first element for which the predicate holds; it must hold for all after it.
    fileprivate func partitioningIndex(where predicate: (Element) -> Bool) -> Int {
        var low = 0
        var high = self.count
        while low < high {
            let middle = (low + high) / 2
            if predicate(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
