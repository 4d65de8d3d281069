import NIOCore
import Testing
import TunnelSimulator

@testable import Tunnel

@Suite struct TransportParametersTests {
    /// What must not be missing, in its least form.
    private static let id = parameter(0x6b01, [1, 2, 3, 4, 5, 6, 7, 8])
    private static let streamData = parameter(0x05, number(4_096))

    private static func number(_ value: UInt64) -> Bytes {
        var buffer = ByteBuffer()
        buffer.writeVarInt(value)
        return buffer.bytes
    }

    private static func parameter(_ identifier: UInt64, _ value: Bytes) -> Bytes {
        Self.number(identifier) + Self.number(UInt64(value.count)) + value
    }

    private static func parameter(_ identifier: UInt64, _ value: UInt64) -> Bytes {
        Self.parameter(identifier, Self.number(value))
    }

    private func read(_ bytes: Bytes) -> TransportParameters? {
        var buffer = ByteBuffer(bytes: bytes)
        return TransportParameters(reading: &buffer)
    }

    @Test func absentOnes() throws {
        let parameters = try #require(self.read(Self.id + Self.streamData))
        #expect(parameters.connectionID == ConnectionID(rawValue: 0x0102_0304_0506_0708))
        #expect(parameters.initialMaxData == 0)
        #expect(parameters.initialMaxStreams == 0)
        #expect(parameters.maxDatagramFrameSize == 0)
        #expect(parameters.maxMessageSize == 16_416)
        #expect(parameters.deadAfter == .seconds(6))
        #expect(!parameters.takesUrgent)
    }

    @Test func wayAndBack() throws {
        var parameters = TransportParameters(connectionID: ConnectionID(rawValue: .max))
        parameters.initialMaxData = (1 << 62) - 1
        parameters.initialMaxStreamData = 4_096
        parameters.initialMaxStreams = 1 << 60
        parameters.maxDatagramFrameSize = 65_535
        parameters.maxMessageSize = 65_552
        parameters.deadAfter = .milliseconds(1_000)
        parameters.takesUrgent = true
        var buffer = ByteBuffer()
        parameters.write(into: &buffer)
        expect(TransportParameters(reading: &buffer), is: parameters)
    }

    /// Whether a handshake with these, beside the two that must be there, is answered.
    static let table: [(Bytes, Bool, Comment)] = [
        ([], true, "nothing more"),
        (parameter(0x00, Bytes(repeating: 0, count: 70)), true, "padding"),
        (parameter(0x00, Bytes(repeating: 9, count: 3)) + parameter(0x00, []), true, "padding again, of any bytes"),
        (parameter(0x3f, [1]) + parameter(0x3f, []), true, "unknown ones, repeated"),
        (parameter((1 << 62) - 1, []), true, "the greatest identifier"),
        (parameter(0x04, 1) + parameter(0x04, 1), false, "a repeated one"),
        (parameter(0x05, 5_000), false, "another repeated one"),
        (id, false, "the connection's id again"),
        (parameter(0x04, (1 << 62) - 1), true, "the greatest number"),
        (parameter(0x04, []), false, "no number"),
        (parameter(0x04, [0x01, 0x00]), false, "a number and more"),
        (parameter(0x04, [0xc0, 0]), false, "half a number"),
        (parameter(0x04, [0x40, 0x01]), true, "a number that could be shorter"),
        (parameter(0x08, 1 << 60), true, "2^60 streams"),
        (parameter(0x08, (1 << 60) + 1), false, "more than 2^60 streams"),
        (parameter(0x6b02, 1_280), true, "the smallest message"),
        (parameter(0x6b02, 1_279), false, "too small a message"),
        (parameter(0x6b02, (1 << 62) - 1), true, "any great message"),
        (parameter(0x6b03, 1_000), true, "a second's patience"),
        (parameter(0x6b03, 999), false, "less than a second's patience"),
        (parameter(0x6b03, (1 << 62) - 1), true, "endless patience"),
        (parameter(0x6b04, 0) + parameter(0x6b04, 0), false, "urgent bytes, twice"),
        (parameter(0x6b04, (1 << 62) - 1), true, "urgent bytes, with any number"),
        (parameter(0x6b04, []), false, "urgent bytes, without a number"),
        ([0x04], false, "no length"),
        ([0x04, 0x02, 0x01], false, "a value that ends too soon"),
        ([0x04, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false, "the greatest length"),
        ([0x40], false, "half an identifier"),
    ]

    @Test(arguments: table) func limits(_ bytes: Bytes, _ isTaken: Bool, _ comment: Comment) {
        #expect((self.read(Self.id + Self.streamData + bytes) != nil) == isTaken, comment)
        #expect((self.read(bytes + Self.id + Self.streamData) != nil) == isTaken || !isTaken, comment)
    }

    @Test func whatMustBeThere() {
        #expect(self.read([]) == nil)
        #expect(self.read(Self.id) == nil)
        #expect(self.read(Self.streamData) == nil)
        #expect(self.read(Self.id + Self.parameter(0x05, 4_095)) == nil)
        #expect(self.read(Self.streamData + Self.parameter(0x6b01, [1, 2, 3, 4, 5, 6, 7])) == nil)
        #expect(self.read(Self.streamData + Self.parameter(0x6b01, [1, 2, 3, 4, 5, 6, 7, 8, 9])) == nil)
    }

    @Test func greatestMessageIsCut() throws {
        let parameters = try #require(self.read(Self.id + Self.streamData + Self.parameter(0x6b02, 1 << 40)))
        #expect(parameters.maxMessageSize == 65_552)
    }

    @Test func paddingFillsEveryLength() {
        for count in 2...600 {
            var buffer = ByteBuffer()
            TransportParameters.writePadding(count, into: &buffer)
            #expect(buffer.readableBytes == count)
            #expect(self.read(Self.id + Self.streamData + buffer.bytes) != nil)
        }
    }

    @Test(arguments: 0..<200) func randomBytes(_ seed: UInt64) {
        let random = SeededRandom(seed: seed)
        for _ in 0..<50 {
            var bytes = Self.id + Self.streamData
            for _ in 0..<random.between(0...6) {
                bytes += Self.parameter(
                    random.pick([0, 4, 5, 8, 0x20, 0x6b01, 0x6b02, 0x6b03, random.next() >> 2]),
                    random.isOne(in: 2) ? Self.number(random.next() >> UInt64(random.between(2...63))) : []
                )
            }
            for _ in 0..<random.between(0...4) where !bytes.isEmpty {
                bytes[random.between(0...bytes.count - 1)] = UInt8(truncatingIfNeeded: random.next())
            }
            guard let parameters = self.read(bytes) else { continue }
            #expect(parameters.initialMaxStreamData >= 4_096)
            #expect(Constants.maxMessageSizes.contains(parameters.maxMessageSize))
            #expect(parameters.deadAfter >= .seconds(1))
        }
    }
}
