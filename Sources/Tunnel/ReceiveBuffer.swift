import NIOCore

/// The bytes of one direction of a stream between their arrival and the application's taking them, put in order.
///
/// Slices of the opened message are kept where they are large, and copied where they are small, so that what is held
/// stays within a small factor of what flow control has promised, whatever pieces a peer sends.
struct ReceiveBuffer {
    /// In order, ready to be taken.
    private var ready = CircularBuffer<ByteBuffer>()
    /// Beyond a gap, by rising offset, not overlapping.
    private var waiting: [(offset: UInt64, bytes: ByteBuffer)] = []
    /// The next byte in order.
    private(set) var next: UInt64 = 0
    private(set) var readyCount = 0

    /// A slice is kept only if it is at least this part of the message's buffer.
    private static let copyBelow = 4 * 1_024
    private static let gatherInto = 4 * 1_024

    var gapCount: Int { self.waiting.count }

    /// Returns by how many the pieces beyond gaps have changed.
    mutating func insert(_ bytes: ByteBuffer, at offset: UInt64) -> Int {
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
            self.appendReady(bytes)
            return 0
        }
        let before = self.waiting.count
        self.insertWaiting(bytes, at: offset)
        self.moveWaiting()
        return self.waiting.count - before
    }

    private mutating func appendReady(_ bytes: ByteBuffer) {
        let count = bytes.readableBytes
        self.next += UInt64(count)
        self.readyCount += count
        if count < Self.copyBelow, let last = self.ready.indices.last, self.ready[last].writableBytes >= count,
            self.ready[last].storageCapacity <= 2 * Self.gatherInto
        {
            self.ready[last].writeImmutableBuffer(bytes)
            return
        }
        let room = self.ready.isEmpty ? 0 : Self.gatherInto
        self.ready.append(count < Self.copyBelow ? Self.compact(bytes, roomFor: room) : bytes)
    }

    /// A small piece gets room for more of its kind only when others wait before it: a request's 200 bytes stay 200.
    private static func compact(_ bytes: ByteBuffer, roomFor: Int = 0) -> ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(max(bytes.readableBytes, roomFor))
        copy.writeImmutableBuffer(bytes)
        return copy
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
        let small = bytes.readableBytes < Self.copyBelow
        if small, position > 0 {
            let before = self.waiting[position - 1]
            if before.offset + UInt64(before.bytes.readableBytes) == offset,
                before.bytes.readableBytes < Self.gatherInto
            {
                if before.bytes.writableBytes < bytes.readableBytes {
                    self.waiting[position - 1].bytes = Self.compact(before.bytes, roomFor: 2 * Self.gatherInto)
                }
                self.waiting[position - 1].bytes.writeImmutableBuffer(bytes)
                return 0
            }
        }
        self.waiting.insert((offset, small ? Self.compact(bytes) : bytes), at: position)
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
            if self.ready.isEmpty { self.ready = CircularBuffer() }
            return first
        }
        guard let piece = self.ready[self.ready.startIndex].readSlice(length: count) else { return nil }
        self.readyCount -= count
        return piece
    }

    mutating func discard() -> Int {
        let gaps = self.waiting.count
        self.ready = CircularBuffer()
        self.waiting = []
        self.readyCount = 0
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
