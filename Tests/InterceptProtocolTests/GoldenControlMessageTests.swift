import GoldenFiles
import InterceptModel
import InterceptProtocol
import NIOCore
import Testing

/// What the two agents say to each other, as agents of other versions know it.
@Suite struct GoldenControlMessageTests {
    static let failures: [ControlMessage.Failure] = {
        let codes: [ControlMessage.Failure.Code] = [.busy, .port, .unsupported, .internal]
        return codes.map {
            ControlMessage.Failure(
                generation: 3,
                code: $0,
                reason: "why",
                holder: "grace@desk",
                since: "2026-03-01T09:30:00Z",
                id: 7
            )
        }
    }()

    static let answers: [ServicePort: Answer] = [
        .init(1): .connected, .init(2): .refused, .init(3): .unmapped,
        .init(4): .timedOut, .init(5, .udp): .other,
    ]

    @Test func `control messages`() throws {
        var golden = GoldenFile("control-messages")
        let messages =
            ControlMessageTests.all + Self.failures.map { .failed($0) } + [
                .probed(.init(id: 8, answers: Self.answers))
            ]
        for (number, message) in messages.enumerated() {
            // A type that isn't known is only read.
            if case .unknown = message { continue }
            var bytes = ByteBuffer.control(message)
            let length: UInt32? = bytes.readInteger()
            #expect(length.map { Int($0) } == bytes.readableBytes)
            golden.add("\(number)", String(buffer: bytes))
        }
        #expect(try golden.differences() == [])
    }
}
