public import NIOCore

/// One DATAGRAM of a UDP service (PROTOCOL, UDP services): flow number, kind, body.
public enum FlowDatagram: Equatable, Sendable {
    /// Kind 0, in both directions: a payload of a flow that the receiver knows.
    case payload(flow: UInt64, ByteBuffer)
    /// Kind 1, from the sidecar: the flow's header, with a payload.
    case opening(flow: UInt64, ConnectionHeader, ByteBuffer)
    /// Kind 2, from the workspace.
    case notice(flow: UInt64, FlowNotice)

    private enum Kind {
        static let payload: UInt8 = 0
        static let opening: UInt8 = 1
        static let notice: UInt8 = 2
    }

    /// Flow numbers are varints: RFC 9000 §16.
    public static let greatestFlow: UInt64 = (1 << 62) - 1

    /// The result of parsing.
    public enum Parsed: Equatable, Sendable {
        case datagram(FlowDatagram)
        /// The header has an unknown version, transport or family: answered by `.other`.
        case unsupported(flow: UInt64)
        /// Too short, or of an unknown kind: dropped.
        case malformed
    }

    /// Parses a whole datagram; the payload is the rest, and may be empty.
    public static func parse(_ datagram: ByteBuffer) -> Parsed {
        var bytes = datagram
        guard let flow: UInt64 = bytes.readEncodedInteger(strategy: .quic), let kind: UInt8 = bytes.readInteger() else {
            return .malformed
        }
        switch kind {
        case Kind.payload: return .datagram(.payload(flow: flow, bytes.slice()))
        case Kind.opening:
            switch ConnectionHeader.parse(&bytes) {
            case .header(let header) where header.transport == .udp:
                return .datagram(.opening(flow: flow, header, bytes.slice()))
            case .header, .unsupported: return .unsupported(flow: flow)
            case .needsMore: return .malformed
            }
        case Kind.notice:
            guard let code: UInt8 = bytes.readInteger(), bytes.readableBytes == 0,
                let notice = FlowNotice(rawValue: code)
            else { return .malformed }
            return .datagram(.notice(flow: flow, notice))
        default: return .malformed
        }
    }

    /// Writes nothing for a flow number above `greatestFlow`, which no sidecar ever reaches.
    public func write(into bytes: inout ByteBuffer) {
        switch self {
        case .payload(let flow, let payload):
            guard Self.begin(flow, Kind.payload, &bytes) else { return }
            bytes.writeImmutableBuffer(payload)
        case .opening(let flow, let header, let payload):
            guard Self.begin(flow, Kind.opening, &bytes) else { return }
            header.write(into: &bytes)
            bytes.writeImmutableBuffer(payload)
        case .notice(let flow, let notice):
            guard Self.begin(flow, Kind.notice, &bytes) else { return }
            bytes.writeInteger(notice.rawValue)
        }
    }

    private static func begin(_ flow: UInt64, _ kind: UInt8, _ bytes: inout ByteBuffer) -> Bool {
        guard flow <= Self.greatestFlow else { return false }
        bytes.writeEncodedInteger(flow, strategy: .quic)
        bytes.writeInteger(kind)
        return true
    }

    /// The datagram in a buffer of its own.
    public var encoded: ByteBuffer {
        var bytes = ByteBuffer()
        self.write(into: &bytes)
        return bytes
    }
}

/// A workspace's message about a flow.
public enum FlowNotice: UInt8, Sendable, CaseIterable {
    /// The workspace doesn't know the flow: the sidecar sends the header again.
    case unknown = 0
    // The same meaning as an `Answer`: the flow goes to the original.
    case refused = 1
    case unmapped = 2
    case timedOut = 3
    case other = 4
    /// A payload for the client is too large for a datagram: the workspace asks for a stream, which only the sidecar can open.
    case needsStream = 5

    /// Whether the flow goes to the original.
    public var isRefusal: Bool { (1...4).contains(self.rawValue) }
}
