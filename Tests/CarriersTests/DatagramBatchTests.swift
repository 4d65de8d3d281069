import Libc
import NIOCore
import Testing
import Tunnel

@testable import Carriers

/// Between two sockets of this machine.
@Suite struct DatagramBatchTests {
    private static func withSockets(
        _ body: (_ sender: CInt, _ receiver: CInt, DatagramRoute) throws -> Void
    ) throws {
        let address = try SocketAddress(ipAddress: "127.0.0.1", port: 0)
        let (receiver, _, port) = try TunnelSocket.descriptor(boundTo: address)
        defer { close(receiver) }
        let (sender, _, _) = try TunnelSocket.descriptor(boundTo: address)
        defer { close(sender) }
        try body(sender, receiver, DatagramRoute(remote: PathAddress(ipv4: 0x7f00_0001, port: port)))
    }

    /// What has arrived by now, as the first bytes of each datagram tell, and how long it was.
    private static func receiveAll(_ descriptor: CInt) -> [(number: Int, size: Int)] {
        var received: [(Int, Int)] = []
        var bytes = [UInt8](repeating: 0, count: 65_536)
        while true {
            let size = recv(descriptor, &bytes, bytes.count, CInt(MSG_DONTWAIT))
            guard size >= 2 else { return received }
            received.append((Int(bytes[0]) << 8 | Int(bytes[1]), size))
        }
    }

    /// Whatever is kept back for a while: all of it arrives once, whole, and in order, and the batch is empty in the end.
    @Test(arguments: [
        (sizes: [1_440], count: 500), (sizes: [1_440], count: 64), (sizes: [1_440], count: 46),
        (sizes: [1_440], count: 1),
        (sizes: [1_440, 1_440, 1_440, 48], count: 300), (sizes: [48, 1_440], count: 300), (sizes: [48], count: 1_000),
        (sizes: [16_416], count: 100), (sizes: [65_504, 1_200], count: 20),
    ])
    func allArrives(sizes: [Int], count: Int) throws {
        try Self.withSockets { sender, receiver, route in
            var batch = DatagramBatch()
            var written = 0
            var received: [(number: Int, size: Int)] = []
            var turns = 0
            repeat {
                batch.fill { buffer in
                    guard written < count else { return nil }
                    buffer.writeInteger(UInt16(written))
                    buffer.writeRepeatingByte(7, count: sizes[written % sizes.count] - 2)
                    written += 1
                    return route
                }
                #expect(batch.send(on: sender, isIPv6: false) { Issue.record("refused: \($0)") })
                received += Self.receiveAll(receiver)
                turns += 1
            } while (written < count || !batch.isEmpty) && turns <= count
            #expect(batch.isEmpty)
            #expect(received.map(\.number) == Array(0..<count))
            #expect(received.map(\.size) == (0..<count).map { sizes[$0 % sizes.count] })
        }
    }

    /// 64 messages at a time are a run of 45 and one of 19: the second waits for what follows.
    @Test func partsOfRunsWait() throws {
        try Self.withSockets { sender, receiver, route in
            var batch = DatagramBatch()
            func fill(_ count: Int) {
                var left = count
                batch.fill { buffer in
                    guard left > 0 else { return nil }
                    left -= 1
                    buffer.writeRepeatingByte(1, count: 1_440)
                    return route
                }
            }
            fill(100)
            try #require(batch.usesSegmentation)
            #expect(batch.send(on: sender, isIPv6: false) { _ in })
            #expect(Self.receiveAll(receiver).count == 45)
            #expect(!batch.isEmpty)
            fill(3)
            #expect(batch.send(on: sender, isIPv6: false) { _ in })
            #expect(Self.receiveAll(receiver).count == 22, "there is nothing more to wait for")
            #expect(batch.isEmpty)
        }
    }
}
