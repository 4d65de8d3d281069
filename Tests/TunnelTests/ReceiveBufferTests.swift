import NIOCore
import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct ReceiveBufferTests {
    private func insert(_ range: Range<UInt64>, _ buffer: inout ReceiveBuffer) -> Int {
        buffer.insert(ByteBuffer(bytes: pattern(range)), at: range.lowerBound)
    }

    @Test func inOrder() {
        var buffer = ReceiveBuffer()
        expect(self.insert(0..<10, &buffer), is: 0)
        expect(buffer.take(atMost: 4)?.bytes, is: pattern(0..<4))
        expect(self.insert(10..<20, &buffer), is: 0)
        #expect(buffer.readyCount == 16)
        var rest = Bytes()
        while let piece = buffer.take(atMost: .max) { rest += piece.bytes }
        #expect(rest == pattern(4..<20))
        expect(buffer.take(atMost: .max)?.bytes, is: nil)
    }

    @Test func gapsAreCounted() {
        var buffer = ReceiveBuffer()
        expect(self.insert(10..<20, &buffer), is: 1)
        expect(self.insert(30..<40, &buffer), is: 1)
        expect(self.insert(20..<30, &buffer), is: 0, "it continues a piece")
        expect(self.insert(15..<35, &buffer), is: 0, "all of it is there")
        #expect(buffer.gapCount == 2)
        expect(self.insert(0..<12, &buffer), is: -2)
        #expect(buffer.next == 40)
        expect(self.insert(0..<40, &buffer), is: 0, "again")
        #expect(buffer.readyCount == 40)
    }

    @Test func discarding() {
        var buffer = ReceiveBuffer()
        expect(self.insert(0..<5, &buffer), is: 0)
        expect(self.insert(10..<20, &buffer), is: 1)
        expect(buffer.discard(), is: 1)
        #expect(buffer.readyCount == 0)
        #expect(buffer.gapCount == 0)
    }

    /// Whatever pieces a peer sends, what is held stays near what has come.
    @Test func memoryFollowsBytes() {
        // Each byte is cut from a buffer of 16 KiB of its own, as out of a message.
        func single(_ value: UInt8) -> ByteBuffer {
            var message = ByteBuffer(repeating: value, count: 16_384)
            return message.readSlice(length: 1) ?? message
        }
        var buffer = ReceiveBuffer()
        for offset in 0..<UInt64(20_000) { _ = buffer.insert(single(1), at: offset) }
        #expect(buffer.memoryInUse < 3 * 20_000)

        var sparse = ReceiveBuffer()
        for index in 0..<UInt64(4_096) { _ = sparse.insert(single(2), at: 2 * index + 1) }
        #expect(sparse.gapCount == 4_096)
        #expect(sparse.memoryInUse <= 4_096 * 128)

        var late = ReceiveBuffer()
        for offset in 1...UInt64(20_000) { _ = late.insert(single(3), at: offset) }
        #expect(late.gapCount < 10)
        #expect(late.memoryInUse < 3 * 20_000)
    }

    /// Where the last buffer was well filled, and there is room, the next one has room for as much from the start; else not.
    @Test func bulk() {
        let piece = ByteBuffer(repeating: 1, count: 1_400)
        var buffer = ReceiveBuffer()
        var offset: UInt64 = 0
        func insert(_ count: Int, hasRoom: Bool, of piece: ByteBuffer) {
            for _ in 0..<count {
                _ = buffer.insert(piece, at: offset, hasRoom: hasRoom)
                offset += UInt64(piece.readableBytes)
            }
        }
        insert(1, hasRoom: true, of: piece)
        #expect(buffer.memoryInUse < 4_000, "it is no bulk yet")
        insert(30, hasRoom: true, of: piece)
        while buffer.take(atMost: .max) != nil {}
        insert(1, hasRoom: false, of: piece)
        #expect(buffer.memoryInUse < 4_000, "others have need of the room")
        insert(30, hasRoom: false, of: piece)
        while buffer.take(atMost: .max) != nil {}
        insert(1, hasRoom: true, of: ByteBuffer(repeating: 1, count: 100))
        #expect(buffer.memoryInUse < 4_000, "too small a piece")
        insert(30, hasRoom: true, of: piece)
        while buffer.take(atMost: .max) != nil {}
        insert(1, hasRoom: true, of: piece)
        #expect(buffer.memoryInUse > 65_536)
        while buffer.take(atMost: .max) != nil {}
        insert(1, hasRoom: true, of: piece)
        #expect(buffer.memoryInUse < 4_000, "the last one was nearly empty")
    }

    /// A frame that is a quarter of its message doesn't keep the whole message.
    @Test func sliceOfALargeMessage() {
        var message = ByteBuffer(repeating: 1, count: 65_536)
        guard let quarter = message.readSlice(length: 16_384), let half = message.readSlice(length: 32_768) else {
            return
        }
        var buffer = ReceiveBuffer()
        _ = buffer.insert(quarter, at: 0)
        #expect(buffer.memoryInUse < 17_000)
        _ = buffer.insert(half, at: 16_384)
        #expect(buffer.memoryInUse < 17_000 + 66_000)
    }

    /// Against a plain array of the bytes that have come.
    @Test(arguments: 0..<80) func againstAnArray(_ seed: UInt64) {
        let random = SeededRandom(seed: seed)
        let size = random.logarithmic(10...30_000)
        let whole = pattern(0..<UInt64(size))
        var buffer = ReceiveBuffer()
        var hasCome = Array(repeating: false, count: size)
        var gaps = 0
        var taken = Bytes()
        while taken.count < size {
            let start = random.isOne(in: 3) ? Int(buffer.next) : random.between(0...size)
            let count = min(size - start, random.logarithmic(1...6_000))
            // Cut from a larger buffer, as from a message.
            var message = ByteBuffer(bytes: Bytes(repeating: 0xee, count: random.between(0...20)))
            let index = message.writerIndex
            message.writeBytes(whole[start..<start + count])
            message.writeRepeatingByte(0xee, count: random.logarithmic(1...2_000))
            let piece = message.getSlice(at: index, length: count) ?? ByteBuffer()
            gaps += buffer.insert(piece, at: UInt64(start))
            for at in start..<start + count { hasCome[at] = true }

            let next = hasCome.firstIndex(of: false) ?? size
            #expect(buffer.next == UInt64(next))
            #expect(buffer.readyCount == next - taken.count)
            #expect(buffer.gapCount == gaps)
            if next == size { #expect(gaps == 0) }
            while random.isOne(in: 2), let piece = buffer.take(atMost: random.logarithmic(1...5_000)) {
                taken += piece.bytes
            }
            #expect(taken == Bytes(whole.prefix(taken.count)))
        }
    }
}
