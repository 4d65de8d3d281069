import NIOCore
import Testing

@testable import Tunnel

/// DATAGRAM frames, RFC 9221.
@Suite struct DatagramFrameTests {
    private static let now = Instant(nanoseconds: 0)
    private static let carrier = CarrierID(1)

    private static func connection(_ configuration: TunnelConfiguration = .init()) -> Connection {
        Connection(
            role: .initiator,
            id: ConnectionID(rawValue: 7),
            configuration: configuration,
            peerParameters: TransportParameters(connectionID: ConnectionID(rawValue: 7)),
            random: .system,
            at: Self.now
        )
    }

    private static func frame(_ type: UInt64, _ payload: Int, length: UInt64? = nil) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.writeVarInt(type)
        if let length { bytes.writeVarInt(length) }
        bytes.writeRepeatingByte(7, count: payload)
        return bytes
    }

    /// Ready to send: the peer takes frames of this size, a message holds so much.
    private static func sender(frameSize: UInt64 = 65_535, room: Int = 1_024) -> Connection {
        var connection = Self.connection()
        connection.datagrams.setLimits(peerFrameSize: frameSize, streamMessageRoom: room)
        return connection
    }

    /// The payloads of a message's frames, as long as its room lasts.
    private static func message(_ connection: inout Connection, room: Int) -> (payloads: [Int], sent: SentMessage) {
        var body = ByteBuffer()
        var sent = SentMessage(number: 0, time: Self.now, carrier: Self.carrier)
        connection.writeDatagrams(into: &body, end: room, message: &sent, streamsWait: false)
        var payloads: [Int] = []
        while body.readableBytes > 0, case .datagram(let payload, _)? = try? Frame(reading: &body) {
            payloads.append(payload.readableBytes)
        }
        return (payloads, sent)
    }

    // MARK: Receiving

    @Test(arguments: [(0x30, nil), (0x31, 5)] as [(UInt64, UInt64?)])
    func isTaken(_ type: UInt64, _ length: UInt64?) {
        var connection = Self.connection()
        connection.receive(frames: Self.frame(type, 5, length: length), number: 0, bytes: 7, at: Self.now)
        expect(connection.nextEvent(), is: .datagramsReadable)
        expect(connection.nextEvent(), is: nil)
        expect(connection.nextDatagram()?.readableBytes, is: 5)
        expect(connection.nextDatagram(), is: nil)
        let mustAcknowledge = connection.received.hasUnacknowledged
        #expect(mustAcknowledge)
    }

    @Test func oneEventTellsOfMany() {
        var connection = Self.connection()
        for number in 0..<10 as Range<UInt64> {
            connection.receive(frames: Self.frame(0x30, 5), number: number, bytes: 6, at: Self.now)
        }
        expect(connection.nextEvent(), is: .datagramsReadable)
        expect(connection.nextEvent(), is: nil)
        var count = 0
        while connection.nextDatagram() != nil { count += 1 }
        #expect(count == 10)
        connection.receive(frames: Self.frame(0x30, 5), number: 10, bytes: 6, at: Self.now)
        expect(connection.nextEvent(), is: .datagramsReadable)
    }

    /// RFC 9221 §3: what counts is the whole frame.
    @Test(
        arguments: [
            (100, 0x30, 99, nil, true), (100, 0x30, 100, nil, false), (100, 0x31, 97, 97, true),
            (100, 0x31, 98, 98, false), (0, 0x30, 0, nil, false), (0, 0x31, 0, 0, false),
        ] as [(Int, UInt64, Int, UInt64?, Bool)]
    )
    func aFrameOverTheLimitCloses(_ limit: Int, _ type: UInt64, _ payload: Int, _ length: UInt64?, _ isAllowed: Bool) {
        var configuration = TunnelConfiguration()
        configuration.maxDatagramFrameSize = limit
        var connection = Self.connection(configuration)
        let frame = Self.frame(type, payload, length: length)
        connection.receive(frames: frame, number: 0, bytes: 100, at: Self.now)
        let isActive = connection.isActive
        #expect(isActive == isAllowed)
        guard !isAllowed, case .ended(let end)? = connection.nextEvent() else { return }
        #expect(end.code == .protocolViolation)
    }

    @Test func aLengthPastTheMessageCloses() {
        for length in [6, 1 << 20, VarInt.max] {
            var connection = Self.connection()
            connection.receive(frames: Self.frame(0x31, 5, length: length), number: 0, bytes: 7, at: Self.now)
            guard case .ended(let end)? = connection.nextEvent() else {
                Issue.record("\(length) was taken")
                continue
            }
            #expect(end.code == .frameEncodingError)
        }
    }

    @Test(arguments: [0, 1, 1_000, 16_000]) func onlyTheYoungestAreKept(_ size: Int) {
        var connection = Self.connection()
        let count = 2 * Constants.datagramsQueued / (size + Constants.datagramOverhead)
        for number in 0..<UInt64(count) {
            var payload = ByteBuffer()
            payload.writeRepeatingByte(UInt8(truncatingIfNeeded: number % 251), count: size)
            var frame = Self.frame(0x30, 0)
            frame.writeImmutableBuffer(payload)
            connection.receive(frames: frame, number: number, bytes: size, at: Self.now)
        }
        let (isActive, held) = (connection.isActive, connection.datagrams.incoming.byteCount)
        let (kept, dropped) = (connection.datagrams.incoming.count, connection.statistics.datagramsDropped)
        #expect(isActive)
        #expect(held <= Constants.datagramsQueued)
        #expect(held > Constants.datagramsQueued - size - Constants.datagramOverhead - 1)
        #expect(UInt64(kept) + dropped == UInt64(count))
        if size > 0 {
            let first = connection.nextDatagram()?.readableBytesView.first
            #expect(first == UInt8(truncatingIfNeeded: (count - kept) % 251))
        }
    }

    // MARK: Sending

    @Test func whoTakesNoneGetsNone() {
        var connection = Self.sender(frameSize: 1)
        let (takes, greatest) = (connection.takesDatagrams, connection.greatestDatagram)
        #expect(!takes)
        #expect(greatest == 0)
        expect(connection.sendDatagram(ByteBuffer()), is: nil)
    }

    @Test(
        arguments: [
            (65_535, 1_024, 1_021), (100, 1_024, 97), (66, 1_024, 63), (65, 1_024, 63), (64, 1_024, 62), (2, 1_024, 0),
            (65_535, 16_384, 16_381), (1 << 60, 65_520, 65_515),
        ] as [(UInt64, Int, Int)]
    )
    func theGreatestFits(_ frameSize: UInt64, _ room: Int, _ greatest: Int) {
        var connection = Self.sender(frameSize: frameSize, room: room)
        let found = connection.greatestDatagram
        #expect(found == greatest)
        var payload = ByteBuffer()
        payload.writeRepeatingByte(1, count: greatest)
        #expect(connection.sendDatagram(payload) != nil)
        payload.writeInteger(UInt8(1))
        #expect(connection.sendDatagram(payload) == nil)
        let message = Self.message(&connection, room: room)
        #expect(message.payloads == [greatest])
    }

    @Test func severalShareAMessage() {
        var connection = Self.sender()
        for _ in 0..<5 { connection.sendDatagram(ByteBuffer(repeating: 1, count: 300)) }
        let sizes = [Self.message(&connection, room: 1_024).payloads, Self.message(&connection, room: 1_024).payloads]
        #expect(sizes == [[300, 300, 300], [300, 300]])
        expect(connection.statistics.datagramsSent, is: 5)
    }

    @Test func whatBecameTooLongIsDropped() {
        var connection = Self.sender()
        connection.sendDatagram(ByteBuffer(repeating: 1, count: 1_000))
        connection.sendDatagram(ByteBuffer(repeating: 1, count: 10))
        connection.datagrams.setLimits(
            peerFrameSize: connection.datagrams.peerFrameSize,
            streamMessageRoom: 512
        )
        let payloads = Self.message(&connection, room: 512).payloads
        #expect(payloads == [10])
        expect(connection.statistics.datagramsDropped, is: 1)
    }

    @Test func theOldestWaitingIsDropped() {
        var connection = Self.sender()
        let count = 3_000
        for _ in 0..<count { connection.sendDatagram(ByteBuffer(repeating: 1, count: 1_000)) }
        let (held, kept) = (connection.datagrams.outgoing.byteCount, connection.datagrams.outgoing.count)
        #expect(held <= Constants.datagramsQueued)
        expect(connection.statistics.datagramsDropped, is: UInt64(count - kept))
    }

    /// One that was sent is not sent again, whatever becomes of its message; its acknowledgement is told once.
    @Test func acknowledgementIsToldAndLossIsNot() {
        var connection = Self.sender()
        let lost = connection.sendDatagram(ByteBuffer(repeating: 1, count: 900), isTracked: true)
        let arrived = connection.sendDatagram(ByteBuffer(repeating: 1, count: 900), isTracked: true)
        connection.sendDatagram(ByteBuffer(repeating: 1, count: 9))
        #expect(lost != arrived)
        connection.path = Path(Self.carrier, recovery: nil, roundTrip: nil)
        for number in 0..<2 as Range<UInt64> {
            var sent = Self.message(&connection, room: 1_000).sent
            sent.number = number
            connection.sent.append(sent)
        }
        connection.numbers = MessageNumbers(from: 2, random: .system)
        var ack = ByteBuffer()
        for value in [0x02, 1, 0, 0, 0] as [UInt64] { ack.writeVarInt(value) }
        connection.receive(frames: ack, number: 0, bytes: 5, at: Self.now)
        connection.receive(frames: ack, number: 1, bytes: 5, at: Self.now)
        expect(connection.nextEvent(), is: arrived.map { .datagramAcknowledged($0) })
        expect(connection.nextEvent(), is: nil)
        let (lostMessages, waiting) = (connection.statistics.messagesLost, connection.datagrams.outgoing.count)
        #expect(lostMessages == 1)
        #expect(waiting == 0)
    }

    /// Streams that wait and datagrams that never end take turns.
    @Test func streamsGetEverySecondMessage() {
        var connection = Self.sender()
        for _ in 0..<10 { connection.sendDatagram(ByteBuffer(repeating: 1, count: 1_000)) }
        var turns: [Bool] = []
        for _ in 0..<6 {
            var body = ByteBuffer()
            var sent = SentMessage(number: 0, time: Self.now, carrier: Self.carrier)
            connection.writeDatagrams(into: &body, end: 1_024, message: &sent, streamsWait: true)
            turns.append(body.readableBytes > 0)
        }
        #expect(turns == [true, false, true, false, true, false])
    }

    @Test func theEndLetsThemGo() {
        var connection = Self.sender()
        connection.sendDatagram(ByteBuffer(repeating: 1, count: 10))
        connection.receive(frames: Self.frame(0x30, 5), number: 0, bytes: 6, at: Self.now)
        connection.close(.done, at: Self.now)
        let left = connection.datagrams.outgoing.count + connection.datagrams.incoming.count
        #expect(left == 0)
        expect(connection.sendDatagram(ByteBuffer()), is: nil)
    }
}
