import NIOCore
import Testing

@testable import Tunnel

/// What the two ends say to each other, beside streams that stand still.
@Suite struct ControlRoomTests {
    private static func room(_ pair: inout Pair) -> Int {
        pair.responder.withConnection(of: pair.key) { $0.writableBytes(.control) } ?? 0
    }

    @Test func streamsThatStandStillLeaveTheControlStreamItsRoom() throws {
        var pair = Pair()
        #expect(pair.initiator.withConnection { $0.openStream() } == .control)
        _ = pair.initiator.withConnection { $0.write(ByteBuffer(string: "stop"), to: .control) }
        pair.passAll()
        let some = ByteBuffer(bytes: pattern(0..<65_536))
        var memory = 0
        for _ in 0..<100 {
            let opened = pair.openStream()
            let stream = try #require(opened)
            while pair.responder.withConnection(of: pair.key, { $0.write(some, to: stream) }) ?? false {}
            memory = pair.responder.withConnection(of: pair.key) { $0.memoryInUse } ?? 0
        }
        #expect(memory >= Constants.sendBufferPerConnection)
        #expect(Self.room(&pair) > 65_536)
        // Nor may it fill the memory, and who waits for it is told.
        var written = 0
        while pair.responder.withConnection(of: pair.key, { $0.write(some, to: .control) }) ?? false { written += 1 }
        #expect(written < 10)
        #expect(Self.room(&pair) <= 0)
        var isWritable = false
        for step in 0..<40 as Range<Int64> {
            let now = Pair.now + .milliseconds(30 * step)
            pair.passAll(at: now)
            _ = pair.initiator.withConnection { connection in
                while case .bytes = connection.read(.control) {}
            }
            pair.initiator.handleDeadline(at: now)
            while let event = pair.responder.nextEvent() {
                if case .connection(_, .writable(.control)) = event { isWritable = true }
            }
        }
        #expect(isWritable)
        #expect(Self.room(&pair) > 65_536)
    }
}
