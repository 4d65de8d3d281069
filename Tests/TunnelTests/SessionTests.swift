import NIOCore
import Testing

@testable import Noise
@testable import Tunnel

/// Messages that are sealed where they stand in a buffer: with others before them or without, with room behind or without.
@Suite struct SessionTests {
    private static func session() -> Session {
        let arena = SecretArena()
        return Session(
            localIndex: 7,
            remoteIndex: 7,
            createdAt: .seconds(0),
            peerParameters: TransportParameters(connectionID: ConnectionID(rawValue: 1)),
            // Of 32 zeros, both: it opens what it seals.
            sendingKey: CipherState(key: arena.allocate(32)),
            receivingKey: CipherState(key: arena.allocate(32))
        )
    }

    @Test(arguments: [0, 1, 47, 48, 63, 64, 500], [0, 239, 240, 2_000])
    func `what is around a message stays`(start: Int, behind: Int) throws {
        let session = Self.session()
        var counter: UInt64 = 0
        for count in [0, 16, 100, 240, 256, 1_440] {
            for reader in Set([0, start / 2, start]) {
                var buffer = ByteBuffer(repeating: 0xa5, count: start)
                buffer.reserveCapacity(minimumWritableBytes: Constants.dataOverhead + count + behind)
                buffer.writeRepeatingByte(0, count: Constants.dataHeaderSize)
                buffer.writeRepeatingByte(0x33, count: count)
                buffer.writeRepeatingByte(0, count: Constants.tagSize)
                buffer.moveReaderIndex(to: reader)
                // Shared: the other's bytes are its own.
                var before = buffer
                let writer = buffer.writerIndex
                counter += 1
                session.seal(messageAt: start, in: &buffer, counter: counter)

                #expect((buffer.readerIndex, buffer.writerIndex) == (reader, writer))
                buffer.moveReaderIndex(to: 0)
                before.moveReaderIndex(to: 0)
                #expect(buffer.getSlice(at: 0, length: start) == ByteBuffer(repeating: 0xa5, count: start))
                #expect(before.getSlice(at: 0, length: start) == ByteBuffer(repeating: 0xa5, count: start))
                let frames = before.getSlice(at: start + Constants.dataHeaderSize, length: count)
                #expect(frames == ByteBuffer(repeating: 0x33, count: count))
                let message = try #require(buffer.getSlice(at: start, length: writer - start))
                let header = try #require(DataHeader(of: message))
                #expect(header.counter == counter)
                var plaintext = ByteBuffer()
                #expect(session.open(message, header, into: &plaintext, at: .seconds(1)) == nil)
                #expect(plaintext == ByteBuffer(repeating: 0x33, count: count))
                var again = ByteBuffer()
                #expect(session.open(message, header, into: &again, at: .seconds(1)) == .replayed)
            }
        }
    }
}
