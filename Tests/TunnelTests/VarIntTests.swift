import NIOCore
import Testing

@testable import Tunnel

@Suite struct VarIntTests {
    /// The examples of RFC 9000, appendix A.1, and the edges of each length.
    static let table: [(UInt64, Bytes)] = [
        (0, [0x00]),
        (37, [0x25]),
        (63, [0x3f]),
        (64, [0x40, 0x40]),
        (15_293, [0x7b, 0xbd]),
        (16_383, [0x7f, 0xff]),
        (16_384, [0x80, 0x00, 0x40, 0x00]),
        (494_878_333, [0x9d, 0x7f, 0x3e, 0x7d]),
        (1_073_741_823, [0xbf, 0xff, 0xff, 0xff]),
        (1_073_741_824, [0xc0, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00]),
        (151_288_809_941_952_652, [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ((1 << 62) - 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ]

    @Test(arguments: table) func shortestForm(_ value: UInt64, _ encoded: Bytes) {
        var buffer = ByteBuffer()
        buffer.writeVarInt(value)
        #expect(buffer.bytes == encoded)
        #expect(VarInt.byteCount(value) == encoded.count)
        expect(buffer.readVarInt(), is: value)
        #expect(buffer.readableBytes == 0)
    }

    @Test(arguments: table) func truncated(_ value: UInt64, _ encoded: Bytes) {
        for count in 0..<encoded.count {
            var buffer = ByteBuffer(bytes: encoded.prefix(count))
            expect(buffer.readVarInt(), is: nil)
            #expect(buffer.readableBytes == count, "nothing is read")
        }
    }

    /// RFC 9000 §16: a value need not be in its shortest form. 37 in two bytes is the RFC's own example.
    @Test func longerForms() {
        for encoded: Bytes in [[0x40, 0x25], [0x80, 0, 0, 0x25], [0xc0, 0, 0, 0, 0, 0, 0, 0x25]] {
            var buffer = ByteBuffer(bytes: encoded)
            expect(buffer.readVarInt(), is: 37)
        }
    }
}
