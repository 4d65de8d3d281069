import InterceptProtocol
import NIOCore
import Testing

@Suite struct ConnectionHeaderTests {
    static let ipv4 = ConnectionHeader(
        transport: .tcp,
        servicePort: 8_080,
        client: ClientAddress(ipv4: 0xc000_0201, port: 40_000)
    )
    static let ipv6 = ConnectionHeader(
        transport: .udp,
        servicePort: 53,
        client: ClientAddress(ipv6High: 0x2001_0db8_0000_0000, low: 1, port: 65_535)
    )
    static let ipv4Bytes: [UInt8] = [1, 6, 0x1f, 0x90, 4, 192, 0, 2, 1, 0x9c, 0x40]
    static let ipv6Bytes: [UInt8] =
        [1, 17, 0, 53, 6, 0x20, 0x01, 0x0d, 0xb8] + Array(repeating: 0, count: 11) + [1, 0xff, 0xff]

    static let written = [(ipv4, ipv4Bytes), (ipv6, ipv6Bytes)]

    @Test(arguments: written) func `to the byte, both ways`(header: ConnectionHeader, expected: [UInt8]) {
        var bytes = ByteBuffer()
        header.write(into: &bytes)
        #expect(Array(bytes.readableBytesView) == expected)
        #expect(ConnectionHeader.parse(&bytes) == .header(header))
        #expect(bytes.readableBytes == 0)
    }

    @Test(arguments: written) func `every part of it waits, and takes nothing`(header: ConnectionHeader, all: [UInt8]) {
        for count in all.indices {
            var bytes = ByteBuffer(bytes: all.prefix(count))
            #expect(ConnectionHeader.parse(&bytes) == .needsMore)
            #expect(bytes.readableBytes == count)
        }
    }

    @Test(arguments: written) func `the client's bytes behind it stay`(header: ConnectionHeader, all: [UInt8]) {
        var bytes = ByteBuffer(bytes: [9, 9] + all + [7, 7, 7])
        bytes.moveReaderIndex(forwardBy: 2)
        #expect(ConnectionHeader.parse(&bytes) == .header(header))
        #expect(Array(bytes.readableBytesView) == [7, 7, 7])
    }

    @Test(arguments: [(0, 0), (0, 2), (0, 255), (1, 0), (1, 1), (1, 132), (4, 0), (4, 5), (4, 10)])
    func `what this version doesn't know`(place: Int, value: UInt8) {
        var all = Self.ipv4Bytes
        all[place] = value
        // As soon as the byte is there.
        for count in (place + 1)...all.count {
            var bytes = ByteBuffer(bytes: all.prefix(count))
            #expect(ConnectionHeader.parse(&bytes) == .unsupported)
        }
    }

    @Test(arguments: 0..<2_000) func `random bytes`(seed: UInt64) {
        var random = Seeded(seed)
        var all = (0..<Int.random(in: 0...40, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
        // Most would end at the version.
        for (place, value) in [(0, 1), (1, 6), (4, 6)] as [(Int, UInt8)] where all.indices.contains(place) {
            if Int.random(in: 0..<8, using: &random) > 0 { all[place] = value }
        }
        var bytes = ByteBuffer(bytes: all)
        guard case .header(let header) = ConnectionHeader.parse(&bytes) else { return }
        var again = ByteBuffer()
        header.write(into: &again)
        #expect(Array(again.readableBytesView) + Array(bytes.readableBytesView) == all)
        #expect(!header.client.description.isEmpty)
    }

    @Test func `the answers' numbers`() {
        #expect(
            (0...255).compactMap { Answer(rawValue: $0) } == [.connected, .refused, .unmapped, .timedOut, .other]
        )
    }
}

@Suite struct ClientAddressTests {
    @Test(arguments: [
        ("192.0.2.1", 40_000, "192.0.2.1:40000"), ("0.0.0.0", 0, "0.0.0.0:0"),
        ("255.255.255.255", 65_535, "255.255.255.255:65535"), ("2001:db8::1", 443, "[2001:db8::1]:443"),
        ("::1", 1, "[::1]:1"), ("::", 1, "[::]:1"), ("::fffe:1.2.3.4", 1, "[::fffe:102:304]:1"),
        ("::ffff:192.0.2.1", 7, "192.0.2.1:7"), ("1::ffff:192.0.2.1", 7, "[1::ffff:c000:201]:7"),
    ])
    func `from a socket's address to text`(ip: String, port: Int, text: String) throws {
        let address = ClientAddress(try SocketAddress(ipAddress: ip, port: port))
        #expect(address.description == text)
        #expect(address.isIPv6 == text.hasPrefix("["))
        let back = try #require(address.socketAddress)
        #expect(ClientAddress(back) == address)
    }

    @Test func `no address`() throws {
        #expect(ClientAddress(nil) == ClientAddress(ipv4: 0, port: 0))
        #expect(ClientAddress(try SocketAddress(unixDomainSocketPath: "/x")) == ClientAddress(ipv4: 0, port: 0))
    }
}
