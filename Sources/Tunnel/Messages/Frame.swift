import NIOCore

/// The types of those frames of RFC 9000 §19 that this protocol uses, of DATAGRAM (RFC 9221) and of URGENT_STREAM.
enum FrameType {
    static let padding: UInt64 = 0x00
    static let ping: UInt64 = 0x01
    static let ack: UInt64 = 0x02
    static let resetStream: UInt64 = 0x04
    static let stopSending: UInt64 = 0x05
    static let stream: UInt64 = 0x08
    static let streamTypes: ClosedRange<UInt64> = 0x08...0x0f
    static let maxData: UInt64 = 0x10
    static let maxStreamData: UInt64 = 0x11
    static let maxStreams: UInt64 = 0x12
    static let dataBlocked: UInt64 = 0x14
    static let streamDataBlocked: UInt64 = 0x15
    static let streamsBlocked: UInt64 = 0x16
    static let pathChallenge: UInt64 = 0x1a
    static let pathResponse: UInt64 = 0x1b
    static let connectionClose: UInt64 = 0x1d
    static let datagramTypes: ClosedRange<UInt64> = 0x30...0x31
    static let urgentStream: UInt64 = 0x6b08
    static let urgentStreamTypes: ClosedRange<UInt64> = 0x6b08...0x6b0f

    static let datagramLength: UInt64 = 0x01
    static let streamFin: UInt64 = 0x01
    static let streamLength: UInt64 = 0x02
    static let streamOffset: UInt64 = 0x04
}

enum Frame {
    case padding
    case ping
    case ack(AckFrame)
    case resetStream(StreamID, code: UInt64, finalSize: UInt64)
    case stopSending(StreamID, code: UInt64)
    case stream(StreamID, offset: UInt64, data: ByteBuffer, fin: Bool)
    /// The last byte of `data`, which has at least one, is urgent.
    case urgentStream(StreamID, offset: UInt64, data: ByteBuffer, fin: Bool)
    case maxData(UInt64)
    case maxStreamData(StreamID, UInt64)
    case maxStreams(UInt64)
    /// DATA_BLOCKED, STREAM_DATA_BLOCKED or STREAMS_BLOCKED: a hint for debugging, which changes nothing.
    case blocked
    case pathChallenge(UInt64)
    case pathResponse(UInt64)
    case connectionClose(code: UInt64, reason: ByteBuffer)
    /// `frameSize` is that of the whole frame, its type and length included.
    case datagram(ByteBuffer, frameSize: Int)

    /// RFC 9000 §13.2.1: everything but ACK, PADDING and CONNECTION_CLOSE.
    var isAckEliciting: Bool {
        switch self {
        case .padding, .ack, .connectionClose: false
        default: true
        }
    }

    /// Reads the next frame. A run of PADDING counts as one.
    init(reading bytes: inout ByteBuffer) throws(TransportError) {
        let start = bytes.readerIndex
        switch try bytes.frameInteger() {
        case FrameType.padding:
            Self.skipPadding(&bytes)
            self = .padding
        case FrameType.ping: self = .ping
        case FrameType.ack: self = .ack(try AckFrame(reading: &bytes))
        case FrameType.resetStream:
            self = .resetStream(
                try bytes.frameStreamID(),
                code: try bytes.frameInteger(),
                finalSize: try bytes.frameInteger()
            )
        case FrameType.stopSending:
            self = .stopSending(try bytes.frameStreamID(), code: try bytes.frameInteger())
        case let type where FrameType.streamTypes.contains(type): self = try Self.stream(type, &bytes)
        case FrameType.maxData: self = .maxData(try bytes.frameInteger())
        case FrameType.maxStreamData:
            self = .maxStreamData(try bytes.frameStreamID(), try bytes.frameInteger())
        case FrameType.maxStreams:
            self = .maxStreams(try bytes.frameStreamCount())
        case FrameType.dataBlocked:
            _ = try bytes.frameInteger()
            self = .blocked
        case FrameType.streamDataBlocked:
            _ = try bytes.frameStreamID()
            _ = try bytes.frameInteger()
            self = .blocked
        case FrameType.streamsBlocked:
            _ = try bytes.frameStreamCount()
            self = .blocked
        case FrameType.pathChallenge: self = .pathChallenge(try bytes.frameFixed64())
        case FrameType.pathResponse: self = .pathResponse(try bytes.frameFixed64())
        case FrameType.connectionClose:
            let code = try bytes.frameInteger()
            self = .connectionClose(code: code, reason: try bytes.frameBytes(try bytes.frameInteger()))
        case let type where FrameType.datagramTypes.contains(type):
            // RFC 9221 §4: without a length, the payload reaches to the end of the message.
            let hasLength = type & FrameType.datagramLength != 0
            let length = hasLength ? try bytes.frameInteger() : UInt64(bytes.readableBytes)
            let payload = try bytes.frameBytes(length)
            self = .datagram(payload, frameSize: bytes.readerIndex - start)
        case let type where FrameType.urgentStreamTypes.contains(type):
            guard case .stream(let id, let offset, let data, let fin) = try Self.stream(type, &bytes),
                data.readableBytes > 0
            else { throw TransportError(.frameEncodingError, "an urgent byte that isn't there") }
            self = .urgentStream(id, offset: offset, data: data, fin: fin)
        default: throw TransportError(.frameEncodingError, "a frame type that this protocol doesn't have")
        }
    }

    /// RFC 9000 §19.8.
    private static func stream(_ type: UInt64, _ bytes: inout ByteBuffer) throws(TransportError) -> Frame {
        guard let (id, offset, length, end) = Self.streamHeader(type, bytes.readableBytesSpan) else {
            throw Self.endsTooSoon
        }
        bytes.moveReaderIndex(forwardBy: end)
        let data = try bytes.frameBytes(length)
        guard offset <= VarInt.max - length else {
            throw TransportError(.frameEncodingError, "a stream longer than 2^62 - 1")
        }
        return .stream(StreamID(rawValue: id), offset: offset, data: data, fin: type & FrameType.streamFin != 0)
    }

    /// The fields before a STREAM frame's data, and the offset at which the data begins.
    private static func streamHeader(
        _ type: UInt64,
        _ bytes: RawSpan
    ) -> (id: UInt64, offset: UInt64, length: UInt64, end: Int)? {
        var end = 0
        guard let id = bytes.varInt(at: &end),
            let offset = type & FrameType.streamOffset != 0 ? bytes.varInt(at: &end) : 0,
            let length = type & FrameType.streamLength != 0 ? bytes.varInt(at: &end) : UInt64(bytes.byteCount - end)
        else { return nil }
        return (id, offset, length, end)
    }

    fileprivate static var endsTooSoon: TransportError {
        TransportError(.frameEncodingError, "a frame that ends too soon")
    }

    private static func skipPadding(_ bytes: inout ByteBuffer) {
        let count = bytes.withUnsafeReadableBytes { rest in rest.prefix { $0 == 0 }.count }
        bytes.moveReaderIndex(forwardBy: count)
    }
}

/// RFC 9000 §19.3, without ECN. The ranges are decoded as they are used, never stored.
struct AckFrame {
    let largest: UInt64
    let delay: TimeAmount
    private let firstRange: UInt64
    private let moreRanges: UInt64
    private let encoded: ByteBuffer

    init(reading bytes: inout ByteBuffer) throws(TransportError) {
        self.largest = try bytes.frameInteger()
        let delay = try bytes.frameInteger()
        // Microseconds, scaled. More than a minute makes no sense and reads as a minute.
        let microseconds = min(delay, 60_000_000) << Constants.ackDelayExponent
        self.delay = .microseconds(Int64(min(microseconds, 60_000_000)))
        self.moreRanges = try bytes.frameInteger()
        self.firstRange = try bytes.frameInteger()
        guard self.firstRange <= self.largest else { throw Self.malformed }
        // A range takes at least two bytes: a count that the frame can't hold is refused before the ranges are read.
        guard self.moreRanges <= UInt64(bytes.readableBytes) / 2 else { throw Self.malformed }
        let start = bytes
        var smallest = self.largest - self.firstRange
        for _ in 0..<self.moreRanges {
            let gap = try bytes.frameInteger()
            let length = try bytes.frameInteger()
            guard gap &+ 2 <= smallest, length <= smallest - gap - 2 else { throw Self.malformed }
            smallest = smallest - gap - 2 - length
        }
        self.encoded = start
    }

    private static var malformed: TransportError {
        TransportError(.frameEncodingError, "an ACK whose ranges go below zero or past its end")
    }

    /// From the highest range downwards, at most as many ranges as a receiver keeps.
    func forEachRange(_ body: (ClosedRange<UInt64>) -> Bool) {
        var smallest = self.largest - self.firstRange
        guard body(smallest...self.largest) else { return }
        var bytes = self.encoded
        for _ in 0..<min(self.moreRanges, UInt64(Constants.ackRangesKept)) {
            guard let gap = bytes.readVarInt(), let length = bytes.readVarInt(), gap + 2 <= smallest,
                length <= smallest - gap - 2
            else { return }
            let top = smallest - gap - 2
            smallest = top - length
            guard body(smallest...top) else { return }
        }
    }
}

extension ByteBuffer {
    fileprivate mutating func frameInteger() throws(TransportError) -> UInt64 {
        guard let value = self.readVarInt() else { throw Frame.endsTooSoon }
        return value
    }

    fileprivate mutating func frameStreamID() throws(TransportError) -> StreamID {
        StreamID(rawValue: try self.frameInteger())
    }

    fileprivate mutating func frameStreamCount() throws(TransportError) -> UInt64 {
        let count = try self.frameInteger()
        guard count <= Constants.greatestStreamCount else {
            throw TransportError(.frameEncodingError, "more streams than 2^60")
        }
        return count
    }

    fileprivate mutating func frameFixed64() throws(TransportError) -> UInt64 {
        guard let value: UInt64 = self.readInteger() else { throw Frame.endsTooSoon }
        return value
    }

    fileprivate mutating func frameBytes(_ length: UInt64) throws(TransportError) -> ByteBuffer {
        guard length <= UInt64(self.readableBytes), let bytes = self.readSlice(length: Int(length)) else {
            throw TransportError(.frameEncodingError, "a frame longer than its message")
        }
        return bytes
    }
}
