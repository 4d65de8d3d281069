import NIOCore
import Testing

@testable import Tunnel

@Suite struct OuterMessageTests {
    /// 16 bytes of header and 16 of tag: nothing is read of what is shorter, whatever it says it is.
    @Test(arguments: 0...40) func dataHeader(_ size: Int) {
        var message = ByteBuffer(repeating: 0xff, count: 3)
        message.moveReaderIndex(forwardBy: 3)
        message.writeBytes((0..<size).map { UInt8($0) })
        let header = DataHeader(of: message)
        #expect((header == nil) == (size < 32))
        #expect(header.map(\.receiver) ?? 0x0706_0504 == 0x0706_0504)
        #expect(header.map(\.counter) ?? 0x0f0e_0d0c_0b0a_0908 == 0x0f0e_0d0c_0b0a_0908)
    }

    @Test(arguments: [[], [4], [4, 0, 0], [4, 0, 1, 0], [4, 0, 0, 1], [0, 0, 0, 0], [5, 0, 0, 0]] as [[UInt8]])
    func unknownTypes(_ bytes: [UInt8]) {
        #expect(OuterMessageType(of: ByteBuffer(bytes: bytes)) == nil)
    }
}
