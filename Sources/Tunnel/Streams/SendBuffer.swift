import NIOCore
import Noise

/// Bytes of a stream that the application has written and the peer has not acknowledged.
struct SendBuffer {
    /// Oldest first: the buffers that were written or, for small ones, copies gathered in one.
    private var chunks = CircularBuffer<ByteBuffer>.forFew
    /// Offset of the first byte in `chunks`: all bytes before it have been acknowledged.
    private(set) var base: UInt64 = 0
    private(set) var end: UInt64 = 0
    /// The offset of the first byte that was never sent.
    private(set) var sentEnd: UInt64 = 0
    private var acknowledged = OffsetRanges()
    private var lost = OffsetRanges()
    /// The chunk that holds `sentEnd`, and its offset, so that a bulk stream's next bytes are found without a search.
    private var cursor = (chunk: 0, offset: UInt64(0))

    var buffered: Int { Int(truncatingIfNeeded: self.end - self.base) }
    var unsent: Int { Int(truncatingIfNeeded: self.end - self.sentEnd) }
    var hasLost: Bool { !self.lost.isEmpty }

    /// The memory really in use, for tests of the bounds: the capacity of all buffers, and an estimate of each one's
    /// overhead.
    var memoryInUse: Int { self.chunks.reduce(0) { $0 + $1.storageCapacity + 96 } }
    var isAllAcknowledged: Bool { self.base == self.end }

    mutating func append(_ bytes: ByteBuffer) {
        let count = bytes.readableBytes
        if count == 0 { return }
        self.end += UInt64(count)
        // A read of ten bytes must not keep alive the 64 KiB that it was read into.
        self.chunks.appendGathering(bytes)
    }

    /// The next range to send, at most `room` bytes: lost bytes first, then fresh ones as credit allows.
    func nextRange(atMost room: Int, freshAtMost credit: UInt64) -> Range<UInt64>? {
        if let first = self.lost.first {
            return first.lowerBound..<min(first.upperBound, first.lowerBound + UInt64(room))
        }
        let count = min(UInt64(room), credit, self.end - self.sentEnd)
        return count == 0 ? nil : self.sentEnd..<self.sentEnd + count
    }

    /// Copies a range that `nextRange` returned, and marks it as sent.
    mutating func send(_ range: Range<UInt64>, into output: inout OutputRawSpan) {
        if range.lowerBound == self.sentEnd {
            self.copyFresh(range, into: &output)
            self.sentEnd = range.upperBound
        } else {
            self.lost.remove(range)
            var offset = self.base
            for chunk in self.chunks {
                let chunkEnd = offset + UInt64(chunk.readableBytes)
                if offset >= range.upperBound { break }
                if chunkEnd > range.lowerBound {
                    Self.copy(range.clamped(to: offset..<chunkEnd), of: chunk, at: offset, into: &output)
                }
                offset = chunkEnd
            }
        }
    }

    private mutating func copyFresh(_ range: Range<UInt64>, into output: inout OutputRawSpan) {
        var left = range
        while !left.isEmpty, self.cursor.chunk < self.chunks.count {
            let chunk = self.chunks[self.chunks.index(self.chunks.startIndex, offsetBy: self.cursor.chunk)]
            let chunkEnd = self.cursor.offset + UInt64(chunk.readableBytes)
            let piece = left.clamped(to: self.cursor.offset..<chunkEnd)
            Self.copy(piece, of: chunk, at: self.cursor.offset, into: &output)
            left = piece.upperBound..<left.upperBound
            // The last chunk may still grow, so the cursor leaves it only when another follows.
            if piece.upperBound == chunkEnd, self.cursor.chunk + 1 < self.chunks.count {
                self.cursor = (self.cursor.chunk + 1, chunkEnd)
            } else if left.isEmpty || self.cursor.chunk + 1 >= self.chunks.count {
                break
            }
        }
    }

    private static func copy(
        _ range: Range<UInt64>,
        of chunk: ByteBuffer,
        at offset: UInt64,
        into output: inout OutputRawSpan
    ) {
        let start = Int(range.lowerBound - offset)
        chunk.readableBytesSpan.extracting(start..<start + range.count).append(to: &output)
    }

    /// Marks bytes as acknowledged. Those before the first unacknowledged byte are released; returns how many.
    mutating func acknowledge(_ range: Range<UInt64>) -> Int {
        let range = range.clamped(to: self.base..<self.sentEnd)
        self.lost.remove(range)
        guard range.lowerBound <= self.base else {
            self.acknowledged.insert(range)
            return 0
        }
        var newBase = max(self.base, range.upperBound)
        // There may be several such ranges, if one message's bytes were sent again in several messages, and both arrived.
        while let first = self.acknowledged.first, first.lowerBound <= newBase {
            newBase = max(newBase, first.upperBound)
            self.acknowledged.remove(below: newBase)
        }
        return self.release(through: newBase)
    }

    private mutating func release(through newBase: UInt64) -> Int {
        let freed = Int(newBase - self.base)
        var left = freed
        while left > 0, let first = self.chunks.first {
            let count = first.readableBytes
            if count <= left {
                self.chunks.removeFirst()
                left -= count
                if self.cursor.chunk > 0 {
                    self.cursor.chunk -= 1
                } else {
                    self.cursor.offset = newBase - UInt64(left)
                }
            } else {
                self.chunks[self.chunks.startIndex].moveReaderIndex(forwardBy: left)
                if self.cursor.chunk == 0 { self.cursor.offset = newBase }
                left = 0
            }
        }
        self.base = newBase
        if self.chunks.isEmpty {
            self.cursor = (0, newBase)
            self.chunks.giveBackRoom()
        }
        return freed
    }

    /// Marks bytes as lost: they are sent again, unless they were acknowledged meanwhile.
    mutating func lose(_ range: Range<UInt64>) {
        let range = range.clamped(to: self.base..<max(self.base, self.sentEnd))
        if range.isEmpty { return }
        self.lost.insert(range)
        for gone in self.acknowledged.ranges where gone.overlaps(range) { self.lost.remove(gone) }
    }

    /// The stream was reset, or is finished: drops all bytes, and returns how many.
    mutating func discard() -> Int {
        let freed = self.buffered
        self.chunks = .forFew
        self.acknowledged.removeAll()
        self.lost.removeAll()
        self.end = self.sentEnd
        self.base = self.end
        self.cursor = (0, self.end)
        return freed
    }
}
