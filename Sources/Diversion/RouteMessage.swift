#if os(Linux)
import CNetlink
import Libc

/// A request to the kernel's routing (linux/rtnetlink.h, linux/fib_rules.h), in ip(8)'s language:
///
///     ip rule add pref 7 fwmark 0x2068/0xffffffff lookup TABLE protocol 107
///     ip route add local default dev lo table TABLE protocol 107
///
/// Its numbers are in host order, unlike nf_tables'.
struct RouteMessage: Equatable {
    var type: UInt16
    /// In addition to NLM_F_REQUEST and NLM_F_ACK.
    var flags: CInt
    /// The type's fixed header, and the attributes.
    var body: [UInt8]

    /// The priority of the rule, right after the table of local addresses (0), so that no other program's rule decides first
    /// where packets with this mark go.
    static let priority: UInt32 = 7
    /// Recorded with the rule and the route, so that they are recognised. Numbers from 4 are free for programs.
    static let origin: UInt8 = 107

    /// linux/rtnetlink.h
    static let newRule: UInt16 = 32
    private static let (deleteRule, listRules): (UInt16, UInt16) = (33, 34)
    static let newRoute: UInt16 = 24
    private static let (deleteRoute, listRoutes): (UInt16, UInt16) = (25, 26)

    /// The size of the fixed header of either kind (fib_rule_hdr, rtmsg).
    static let headerSize = 12

    /// FRA_… of linux/fib_rules.h
    enum RuleAttribute: UInt32 {
        case priority = 6
        case mark = 10
        case table = 15
        case mask = 16
        case origin = 21
    }

    /// RTA_… of linux/rtnetlink.h
    private enum RouteAttribute: UInt32 {
        case destination = 1
        case device = 4
        case table = 15
    }

    /// Packets with this mark are routed by the table.
    static func addRule(_ family: CInt, mark: UInt32, table: UInt32) -> Self {
        Self(type: Self.newRule, flags: NLM_F_CREATE | NLM_F_EXCL, body: Self.rule(family, 1, mark, table))
    }

    static func deleteRule(_ family: CInt, mark: UInt32, table: UInt32) -> Self {
        Self(type: Self.deleteRule, flags: 0, body: Self.rule(family, 0, mark, table))
    }

    /// The table delivers all packets to this machine.
    static func addRoute(_ family: CInt, table: UInt32) -> Self {
        Self(type: Self.newRoute, flags: NLM_F_CREATE | NLM_F_EXCL, body: Self.route(family, table))
    }

    static func deleteRoute(_ family: CInt, table: UInt32) -> Self {
        Self(type: Self.deleteRoute, flags: 0, body: Self.route(family, table))
    }

    static func rules(_ family: CInt) -> Self {
        Self(type: Self.listRules, flags: NLM_F_DUMP, body: [UInt8(family)] + Array(repeating: 0, count: 11))
    }

    static func routes(_ family: CInt) -> Self {
        Self(type: Self.listRoutes, flags: NLM_F_DUMP, body: [UInt8(family)] + Array(repeating: 0, count: 11))
    }

    /// - Parameter action: FR_ACT_TO_TBL is 1; 0 for any.
    private static func rule(_ family: CInt, _ action: UInt8, _ mark: UInt32, _ table: UInt32) -> [UInt8] {
        // The table's number doesn't fit into the header.
        let header: [UInt8] = [UInt8(family), 0, 0, 0, 0, 0, 0, action, 0, 0, 0, 0]
        let attributes = NetlinkAttributes {
            $0.add(RuleAttribute.priority, Self.native(Self.priority))
            $0.add(RuleAttribute.mark, Self.native(mark))
            $0.add(RuleAttribute.mask, Self.native(UInt32.max))
            $0.add(RuleAttribute.table, Self.native(table))
            $0.add(RuleAttribute.origin, [Self.origin])
        }
        return header + attributes.bytes
    }

    private static func route(_ family: CInt, _ table: UInt32) -> [UInt8] {
        let isIPv4 = family == AF_INET
        // RT_SCOPE_HOST is 254, which IPv6 doesn't have; RTN_LOCAL is 2.
        let header: [UInt8] = [UInt8(family), 0, 0, 0, 0, Self.origin, isIPv4 ? 254 : 0, 2, 0, 0, 0, 0]
        let attributes = NetlinkAttributes {
            $0.add(RouteAttribute.destination, Array(repeating: 0, count: isIPv4 ? 4 : 16))
            $0.add(RouteAttribute.table, Self.native(table))
            // The loopback's index is 1 in every namespace.
            $0.add(RouteAttribute.device, Self.native(1))
        }
        return header + attributes.bytes
    }

    private static func native(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number) { Array($0) } }

    func bytes(number: UInt32) -> [UInt8] {
        var header = nlmsghdr()
        header.nlmsg_len = UInt32(MemoryLayout<nlmsghdr>.size + self.body.count)
        header.nlmsg_type = self.type
        header.nlmsg_flags = UInt16(NLM_F_REQUEST | NLM_F_ACK | self.flags)
        header.nlmsg_seq = number
        return withUnsafeBytes(of: header) { Array($0) } + self.body
    }
}

/// A rule of the kernel's routing, as far as it matters here.
struct RouteRule: Equatable {
    var mark: UInt32?
    var mask: UInt32?
    var table: UInt32 = 0
    var origin: UInt8?

    init() {}

    /// - Parameter content: of a message of the type RTM_NEWRULE.
    init?(_ content: UnsafeRawBufferPointer) {
        guard content.count >= RouteMessage.headerSize else { return nil }
        self.table = UInt32(content[4])
        var rule = self
        let attributes = UnsafeRawBufferPointer(rebasing: content[RouteMessage.headerSize...])
        ConntrackMessage.attributes(attributes) { type, value in
            func number() -> UInt32? { value.count == 4 ? value.loadUnaligned(as: UInt32.self) : nil }
            switch RouteMessage.RuleAttribute(rawValue: UInt32(type)) {
            case .mark: rule.mark = number()
            case .mask: rule.mask = number()
            case .table: rule.table = number() ?? rule.table
            case .origin: rule.origin = value.first
            case .priority, nil: break
            }
        }
        self = rule
    }

    /// Whether the rule is for packets with exactly this mark, and not for a part of the mark's bits.
    func isFor(_ mark: UInt32) -> Bool { self.mark == mark && (self.mask ?? .max) == .max }
}
#endif
