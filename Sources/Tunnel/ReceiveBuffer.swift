import NIOCore

/// The bytes of one direction of a stream between their arrival and the application's taking them, put in order.
///
/// A slice of the opened message is kept where it is the greater part of its buffer, and copied else, so that what is held
/// stays within a small factor of what flow control has promised, whatever pieces a peer sends.
struct ReceiveBuffer {
    /// In order, ready to be taken.
    private var ready = CircularBuffer<ByteBuffer>.forFew
    /// Beyond a gap, by rising offset, not overlapping.
    private var waiting: [(offset: UInt64, bytes: ByteBuffer)] = []
    /// The next byte in order.
    private(set) var next: UInt64 = 0
    private(set) var readyCount = 0
    /// The last buffer that was taken was well filled: the next one will be, too.
    private var isBulk = false

    var gapCount: Int { self.waiting.count }

    /// What is held in truth, for tests of the bounds: the room of all buffers, and what each costs besides.
    var memoryInUse: Int {
        let each = 96
        return self.ready.reduce(0) { $0 + $1.storageCapacity + each }
            + self.waiting.reduce(0) { $0 + $1.bytes.storageCapacity + each }
    }

    /// Returns by how many the pieces beyond gaps have changed.
    ///
    /// - Parameter hasRoom: there may be a buffer with room for much more than is in it yet.
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

    /// Puts in only what isn't there yet.
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

    /// Returns how many pieces more there are: none where a small one continues the piece before it.
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

    /// Takes what is in order, at most so many bytes, without copying.
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

    /// Returns how many pieces beyond gaps there were.
    mutating func discard() -> Int {
        self.ready = .forFew
        self.readyCount = 0
        return self.discardBeyondGaps()
    }

    /// Keeps what is in order. Returns how many other pieces there were.
    mutating func discardBeyondGaps() -> Int {
        let gaps = self.waiting.count
        self.waiting = []
        return gaps
    }
}

extension Array {
    /// Index of the first element for which the predicate holds; it must hold for all after it.
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
