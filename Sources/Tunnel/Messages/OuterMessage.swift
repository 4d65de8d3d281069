import NIOCore

/// The first four bytes of every message: its type, and three that are zero (WireGuard's paper, §5.4).
enum OuterMessageType: UInt32 {
    case initiation = 1
    case response = 2
    case cookieReply = 3
    case data = 4

    /// Doesn't consume the bytes. nil: unknown, too short, or a reserved byte isn't zero.
    init?(of message: ByteBuffer) {
        let bytes = message.readableBytesSpan
        guard bytes.byteCount >= 4,
            let type = OuterMessageType(rawValue: UInt32(littleEndian: bytes.unsafeLoadUnaligned(as: UInt32.self)))
        else { return nil }
        self = type
    }
}

extension ByteBuffer {
    /// A field of an outer message's header. Only these are little-endian.
    func headerInteger<Value: FixedWidthInteger>(at offset: Int, as type: Value.Type = Value.self) -> Value? {
        self.getInteger(at: self.readerIndex + offset, endianness: .little)
    }
}

/// The header of a data message: type, receiver index, counter.
struct DataHeader {
    let receiver: UInt32
    let counter: UInt64

    /// nil: the message is shorter than one without frames.
    init?(of message: ByteBuffer) {
        let bytes = message.readableBytesSpan
        guard bytes.byteCount >= Constants.dataOverhead else { return nil }
        self.receiver = UInt32(littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: 4, as: UInt32.self))
        self.counter = UInt64(littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }

    static func write(receiver: UInt32, counter: UInt64, into bytes: inout MutableRawSpan, at start: Int) {
        bytes.storeBytes(of: OuterMessageType.data.rawValue.littleEndian, toByteOffset: start, as: UInt32.self)
        bytes.storeBytes(of: receiver.littleEndian, toByteOffset: start + 4, as: UInt32.self)
        bytes.storeBytes(of: counter.littleEndian, toByteOffset: start + 8, as: UInt64.self)
    }
}

/// Why a message was dropped. The network sees only silence, but each reason has a counter.
public enum DropReason: Int, CaseIterable, Sendable {
    case malformed
    case wrongRole
    case wrongMac1
    case notOpened
    case keyNotAccepted
    case oldTimestamp
    case badParameters
    case overBudget
    /// A datagram of a peer that has used up its share of this turn while other peers' datagrams wait.
    case overShare
    case unknownIndex
    case replayed
    case keyTooOld
    case otherConnection
    case staleResponse

    /// The reason as a metric's label and in log lines.
    public var label: String {
        switch self {
        case .malformed: "malformed"
        case .wrongRole: "wrong_role"
        case .wrongMac1: "wrong_mac1"
        case .notOpened: "not_opened"
        case .keyNotAccepted: "key_not_accepted"
        case .oldTimestamp: "old_timestamp"
        case .badParameters: "bad_parameters"
        case .overBudget: "over_budget"
        case .overShare: "over_share"
        case .unknownIndex: "unknown_index"
        case .replayed: "replayed"
        case .keyTooOld: "key_too_old"
        case .otherConnection: "other_connection"
        case .staleResponse: "stale_response"
        }
    }
}

/// What was done with a received message.
public enum MessageVerdict: Equatable, Sendable {
    case taken
    case dropped(DropReason)
    /// The initiation is opened when its stream's turn comes; `.answered` reports that it was valid.
    case waits
}

/// How many messages were dropped, by reason.
public struct DropCounters: Sendable {
    private var counts = [UInt64](repeating: 0, count: DropReason.allCases.count)

    public subscript(reason: DropReason) -> UInt64 { self.counts[reason.rawValue] }

    mutating func count(_ reason: DropReason) -> MessageVerdict {
        self.counts[reason.rawValue] &+= 1
        return .dropped(reason)
    }
}
