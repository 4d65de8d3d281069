#if os(Linux)
import Libc
import CNetlink

/// Reads and writes the attributes of ctnetlink messages (linux/netfilter/nfnetlink_conntrack.h).
enum ConntrackMessage {
    private static let headerSize = MemoryLayout<nlattr>.size
    private static let nested: UInt16 = 0x8000
    private static let typeMask: UInt16 = 0x3FFF

    /// Parses a message's content, which begins with nfgenmsg. nil if it isn't a UDP flow, or is incomplete.
    static func entry(_ content: UnsafeRawBufferPointer) -> ConnectionTracking.Entry? {
        let start = MemoryLayout<nfgenmsg>.size
        guard content.count >= start else { return nil }
        var original: ConnectionTracking.Tuple?
        var reply: ConnectionTracking.Tuple?
        var name: [UInt8] = []
        var hasOwnZone = false
        Self.attributes(UnsafeRawBufferPointer(rebasing: content[start...])) { type, body in
            switch UInt32(type) {
            case CTA_TUPLE_ORIG.rawValue:
                original = Self.tuple(body)
                Self.attributes(body) { type, _ in if UInt32(type) == CTA_TUPLE_ZONE.rawValue { hasOwnZone = true } }
                name += Self.attribute(UInt16(CTA_TUPLE_ORIG.rawValue) | Self.nested, Array(body))
            case CTA_TUPLE_REPLY.rawValue: reply = Self.tuple(body)
            // In a table with zones, the same addresses may occur twice.
            case CTA_ZONE.rawValue: name += Self.attribute(type, Array(body))
            default: break
            }
        }
        guard let original, let reply else { return nil }
        return ConnectionTracking.Entry(original: original, reply: reply, isInOwnZone: hasOwnZone, name: name)
    }

    /// nil if it isn't UDP.
    private static func tuple(_ bytes: UnsafeRawBufferPointer) -> ConnectionTracking.Tuple? {
        var tuple = ConnectionTracking.Tuple()
        var isUDP = false
        Self.attributes(bytes) { type, body in
            switch UInt32(type) {
            case CTA_TUPLE_IP.rawValue:
                Self.attributes(body) { type, address in
                    switch UInt32(type) {
                    case CTA_IP_V4_SRC.rawValue, CTA_IP_V6_SRC.rawValue: tuple.source = Array(address)
                    case CTA_IP_V4_DST.rawValue, CTA_IP_V6_DST.rawValue: tuple.destination = Array(address)
                    default: break
                    }
                }
            case CTA_TUPLE_PROTO.rawValue:
                Self.attributes(body) { type, value in
                    switch UInt32(type) {
                    case CTA_PROTO_NUM.rawValue: isUDP = value.first == UInt8(IPPROTO_UDP)
                    case CTA_PROTO_SRC_PORT.rawValue: tuple.sourcePort = Self.port(value)
                    case CTA_PROTO_DST_PORT.rawValue: tuple.destinationPort = Self.port(value)
                    default: break
                    }
                }
            default: break
            }
        }
        let isSound = tuple.source.count == tuple.destination.count && [4, 16].contains(tuple.source.count)
        return isUDP && isSound ? tuple : nil
    }

    private static func port(_ bytes: UnsafeRawBufferPointer) -> UInt16 {
        bytes.count >= 2 ? UInt16(bigEndian: bytes.loadUnaligned(as: UInt16.self)) : 0
    }

    static func attributes(_ bytes: UnsafeRawBufferPointer, _ body: (UInt16, UnsafeRawBufferPointer) -> Void) {
        var rest = bytes
        while rest.count >= Self.headerSize {
            let header = rest.loadUnaligned(as: nlattr.self)
            let length = Int(header.nla_len)
            guard length >= Self.headerSize, length <= rest.count else { return }
            body(header.nla_type & Self.typeMask, UnsafeRawBufferPointer(rebasing: rest[Self.headerSize..<length]))
            rest = UnsafeRawBufferPointer(rebasing: rest[min((length + 3) & ~3, rest.count)...])
        }
    }

    // MARK: Writing

    /// The attribute with which to ask for the flow that has these answers.
    static func replyAttribute(_ tuple: ConnectionTracking.Tuple) -> [UInt8] { Self.attribute(CTA_TUPLE_REPLY, tuple) }

    /// The attributes of an answered flow whose packets are translated to this address and port.
    static func translated(
        _ original: ConnectionTracking.Tuple,
        to address: [UInt8],
        _ port: UInt16,
        seconds: UInt32
    ) -> [UInt8] {
        let isIPv4 = address.count == 4
        // From this tuple and the translation, the kernel makes the answers' tuple.
        let reply = ConnectionTracking.Tuple(
            source: original.destination,
            destination: original.source,
            sourcePort: original.destinationPort,
            destinationPort: original.sourcePort
        )
        let ports =
            Self.attribute(UInt16(CTA_PROTONAT_PORT_MIN.rawValue), Self.bytes(port))
            + Self.attribute(UInt16(CTA_PROTONAT_PORT_MAX.rawValue), Self.bytes(port))
        let translation =
            Self.attribute(UInt16((isIPv4 ? CTA_NAT_V4_MINIP : CTA_NAT_V6_MINIP).rawValue), address)
            + Self.attribute(UInt16((isIPv4 ? CTA_NAT_V4_MAXIP : CTA_NAT_V6_MAXIP).rawValue), address)
            + Self.attribute(UInt16(CTA_NAT_PROTO.rawValue) | Self.nested, ports)
        // Without IPS_CONFIRMED the kernel answers EBUSY.
        let status = [IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED].reduce(0 as UInt32) { $0 | UInt32($1.rawValue) }
        return Self.attribute(CTA_TUPLE_ORIG, original) + Self.attribute(CTA_TUPLE_REPLY, reply)
            + Self.attribute(UInt16(CTA_STATUS.rawValue), Self.bytes(status))
            + Self.attribute(UInt16(CTA_TIMEOUT.rawValue), Self.bytes(seconds))
            + Self.attribute(UInt16(CTA_NAT_DST.rawValue) | Self.nested, translation)
    }

    /// The attributes of a flow that has this zone in the direction of its first packet, with the time that it has left.
    static func timed(_ original: ConnectionTracking.Tuple, inZone zone: UInt16, seconds: UInt32) -> [UInt8] {
        Self.attribute(CTA_TUPLE_ORIG, original, zone: zone)
            + Self.attribute(UInt16(CTA_TIMEOUT.rawValue), Self.bytes(seconds))
    }

    private static func attribute(
        _ type: ctattr_type,
        _ tuple: ConnectionTracking.Tuple,
        zone: UInt16? = nil
    ) -> [UInt8] {
        let isIPv4 = tuple.source.count == 4
        let addresses =
            Self.attribute(UInt16((isIPv4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC).rawValue), tuple.source)
            + Self.attribute(UInt16((isIPv4 ? CTA_IP_V4_DST : CTA_IP_V6_DST).rawValue), tuple.destination)
        let ports =
            Self.attribute(UInt16(CTA_PROTO_NUM.rawValue), [UInt8(IPPROTO_UDP)])
            + Self.attribute(UInt16(CTA_PROTO_SRC_PORT.rawValue), Self.bytes(tuple.sourcePort))
            + Self.attribute(UInt16(CTA_PROTO_DST_PORT.rawValue), Self.bytes(tuple.destinationPort))
        let body =
            Self.attribute(UInt16(CTA_TUPLE_IP.rawValue) | Self.nested, addresses)
            + Self.attribute(UInt16(CTA_TUPLE_PROTO.rawValue) | Self.nested, ports)
            + (zone.map { Self.attribute(UInt16(CTA_TUPLE_ZONE.rawValue), Self.bytes($0)) } ?? [])
        return Self.attribute(UInt16(type.rawValue) | Self.nested, body)
    }

    private static func bytes(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    private static func attribute(_ type: UInt16, _ body: [UInt8]) -> [UInt8] {
        var header = nlattr()
        header.nla_len = UInt16(truncatingIfNeeded: Self.headerSize + body.count)
        header.nla_type = type
        var bytes: [UInt8] = []
        withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
        bytes += body
        while bytes.count % 4 != 0 { bytes.append(0) }
        return bytes
    }
}
#endif
