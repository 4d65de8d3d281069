/// Why a connection ends, as CONNECTION_CLOSE names it (RFC 9000 §20.1, and the project's own above 0xff).
public struct ErrorCode: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let noError = ErrorCode(rawValue: 0x00)
    public static let internalError = ErrorCode(rawValue: 0x01)
    public static let flowControlError = ErrorCode(rawValue: 0x03)
    public static let streamLimitError = ErrorCode(rawValue: 0x04)
    public static let streamStateError = ErrorCode(rawValue: 0x05)
    public static let finalSizeError = ErrorCode(rawValue: 0x06)
    public static let frameEncodingError = ErrorCode(rawValue: 0x07)
    public static let protocolViolation = ErrorCode(rawValue: 0x0a)
    /// The intercept has ended, as its user wished.
    public static let done = ErrorCode(rawValue: 0x100)
    /// Another connection of the same key took this one's place.
    public static let replaced = ErrorCode(rawValue: 0x101)
    /// The key is no longer accepted.
    public static let revoked = ErrorCode(rawValue: 0x102)
    /// Stream 0 carried something other than a control message.
    public static let controlError = ErrorCode(rawValue: 0x103)
}

extension ErrorCode: CustomStringConvertible {
    public var description: String {
        switch self {
        case .noError: "NO_ERROR"
        case .internalError: "INTERNAL_ERROR"
        case .flowControlError: "FLOW_CONTROL_ERROR"
        case .streamLimitError: "STREAM_LIMIT_ERROR"
        case .streamStateError: "STREAM_STATE_ERROR"
        case .finalSizeError: "FINAL_SIZE_ERROR"
        case .frameEncodingError: "FRAME_ENCODING_ERROR"
        case .protocolViolation: "PROTOCOL_VIOLATION"
        case .done: "DONE"
        case .replaced: "REPLACED"
        case .revoked: "REVOKED"
        case .controlError: "CONTROL_ERROR"
        default: "error 0x" + String(self.rawValue, radix: 16)
        }
    }
}

/// The peer broke the protocol: the connection closes with this code and reason.
struct TransportError: Error {
    var code: ErrorCode
    /// For the other side's log; never anything secret.
    var reason: StaticString

    init(_ code: ErrorCode, _ reason: StaticString) {
        self.code = code
        self.reason = reason
    }
}

/// Why one direction of a stream was reset, in RESET_STREAM and STOP_SENDING.
public struct StreamErrorCode: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let tcpReset = StreamErrorCode(rawValue: 0)
    public static let handedToOriginal = StreamErrorCode(rawValue: 1)
    public static let timedOut = StreamErrorCode(rawValue: 2)
    public static let shuttingDown = StreamErrorCode(rawValue: 3)
}

/// How a connection ended.
public struct ConnectionEnd: Hashable, Sendable {
    public enum Origin: Hashable, Sendable {
        case local
        case peer
        /// The connection was without a carrier for `linger`.
        case lingerOver
        /// The responder no longer knows the connection, and made another.
        case forgottenByPeer
    }

    public var code: ErrorCode
    public var origin: Origin
    /// The reason that the closing side gave. A peer's has at most 256 bytes, and control characters must not be shown.
    public var reason: String
}
