#if os(Linux)
import CNetlink

/// One expression of a rule: it loads something into a register, compares it, or decides. Expressions are evaluated in
/// order, and the rule ends with the first that doesn't match.
///
/// All of them use register 1 only, as nft does.
struct NFTablesExpression: Equatable {
    let attributes: NetlinkAttributes
    /// The kernel module that it needs, if that isn't nf_tables itself.
    let module: String?

    private init(_ name: String, module: String? = nil, _ build: (inout NetlinkAttributes) -> Void) {
        self.attributes = NetlinkAttributes {
            $0.add(NFTA_EXPR_NAME, name)
            $0.add(NFTA_EXPR_DATA, NetlinkAttributes(build))
        }
        self.module = module
    }

    private static let register = NFT_REG_1.rawValue

    // MARK: Loading

    /// The packet's mark, protocols, or incoming interface.
    static func meta(_ key: nft_meta_keys) -> Self {
        Self("meta") {
            $0.add(NFTA_META_KEY, key.rawValue)
            $0.add(NFTA_META_DREG, Self.register)
        }
    }

    static func payload(_ base: nft_payload_bases, offset: UInt32, count: UInt32) -> Self {
        Self("payload") {
            $0.add(NFTA_PAYLOAD_DREG, Self.register)
            $0.add(NFTA_PAYLOAD_BASE, base.rawValue)
            $0.add(NFTA_PAYLOAD_OFFSET, offset)
            $0.add(NFTA_PAYLOAD_LEN, count)
        }
    }

    /// A property of the tracked connection.
    static func connection(_ key: nft_ct_keys) -> Self {
        Self("ct", module: "nft_ct") {
            $0.add(NFTA_CT_KEY, key.rawValue)
            $0.add(NFTA_CT_DREG, Self.register)
        }
    }

    /// Puts the same property into the register, but of the connection in the direction of its first packet.
    static func original(_ key: nft_ct_keys) -> Self {
        Self("ct", module: "nft_ct") {
            $0.add(NFTA_CT_KEY, key.rawValue)
            $0.add(NFTA_CT_DREG, Self.register)
            $0.add(NFTA_CT_DIRECTION, Self.originalDirection)
        }
    }

    /// IP_CT_DIR_ORIGINAL of linux/netfilter/nf_conntrack_tuple_common.h.
    private static let originalDirection: [UInt8] = [0]

    /// Puts a value into the register.
    static func value(_ bytes: [UInt8]) -> Self {
        Self("immediate") {
            $0.add(NFTA_IMMEDIATE_DREG, Self.register)
            $0.add(NFTA_IMMEDIATE_DATA, NetlinkAttributes { $0.add(NFTA_DATA_VALUE, bytes) })
        }
    }

    /// The destination address's type in the routing table.
    static let destinationKind = Self("fib", module: "nft_fib_inet") {
        $0.add(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR.rawValue)
        $0.add(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE.rawValue)
        $0.add(NFTA_FIB_DREG, Self.register)
    }

    /// Replaces the register's value by what the map has for it; ends the rule if the map has nothing.
    static func map(_ map: NFTablesSet) -> Self { Self.lookup(map, isMap: true) }

    static func masked(_ mask: [UInt8]) -> Self {
        func data(_ bytes: [UInt8]) -> NetlinkAttributes { NetlinkAttributes { $0.add(NFTA_DATA_VALUE, bytes) } }
        return Self("bitwise") {
            $0.add(NFTA_BITWISE_SREG, Self.register)
            $0.add(NFTA_BITWISE_DREG, Self.register)
            $0.add(NFTA_BITWISE_LEN, UInt32(mask.count))
            $0.add(NFTA_BITWISE_MASK, data(mask))
            $0.add(NFTA_BITWISE_XOR, data(mask.map { _ in 0 }))
        }
    }

    // MARK: Comparing

    static func isEqual(_ value: [UInt8]) -> Self { Self.compare(NFT_CMP_EQ, value) }
    static func isOther(than value: [UInt8]) -> Self { Self.compare(NFT_CMP_NEQ, value) }

    private static func compare(_ operation: nft_cmp_ops, _ value: [UInt8]) -> Self {
        Self("cmp") {
            $0.add(NFTA_CMP_SREG, Self.register)
            $0.add(NFTA_CMP_OP, operation.rawValue)
            $0.add(NFTA_CMP_DATA, NetlinkAttributes { $0.add(NFTA_DATA_VALUE, value) })
        }
    }

    static func isIn(_ set: NFTablesSet) -> Self { Self.lookup(set, isMap: false) }

    private static func lookup(_ set: NFTablesSet, isMap: Bool) -> Self {
        Self("lookup") {
            $0.add(NFTA_LOOKUP_SREG, Self.register)
            if isMap { $0.add(NFTA_LOOKUP_DREG, Self.register) }
            $0.add(NFTA_LOOKUP_SET, set.name)
            $0.add(NFTA_LOOKUP_SET_ID, set.id)
        }
    }

    // MARK: Setting

    /// Marks the packet with what is in the register.
    static let setMark = Self("meta") {
        $0.add(NFTA_META_KEY, NFT_META_MARK.rawValue)
        $0.add(NFTA_META_SREG, Self.register)
    }

    /// The kernel looks up the packet's connection, and creates it, in the zone that is in the register. The direction of the
    /// answers has no zone.
    static let setOriginalZone = Self("ct", module: "nft_ct with zones") {
        $0.add(NFTA_CT_KEY, NFT_CT_ZONE.rawValue)
        $0.add(NFTA_CT_DIRECTION, Self.originalDirection)
        $0.add(NFTA_CT_SREG, Self.register)
    }

    // MARK: Deciding

    static let accept = Self.verdict(1)
    static let drop = Self.verdict(0)
    static let goBack = Self.verdict(NFT_RETURN.rawValue)
    static func jump(_ chain: String) -> Self { Self.verdict(NFT_JUMP.rawValue, chain) }

    /// NF_ACCEPT and NF_DROP of linux/netfilter.h, or one of nf_tables' own verdicts, which are negative.
    private static func verdict(_ code: Int32, _ chain: String? = nil) -> Self {
        Self("immediate") {
            $0.add(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT.rawValue)
            let verdict = NetlinkAttributes {
                $0.add(NFTA_VERDICT_CODE, UInt32(bitPattern: code))
                if let chain { $0.add(NFTA_VERDICT_CHAIN, chain) }
            }
            $0.add(NFTA_IMMEDIATE_DATA, NetlinkAttributes { $0.add(NFTA_DATA_VERDICT, verdict) })
        }
    }

    /// Redirects the connection to the port in the register, at the address that the client called.
    static let translateToPort = Self("nat", module: "nft_nat") {
        $0.add(NFTA_NAT_TYPE, NFT_NAT_DNAT.rawValue)
        $0.add(NFTA_NAT_FAMILY, UInt32(NFTablesMessage.inet))
        $0.add(NFTA_NAT_REG_PROTO_MIN, Self.register)
        // NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h.
        $0.add(NFTA_NAT_FLAGS, UInt32(2))
    }

    static let reset = Self("reject", module: "nft_reject_inet") {
        $0.add(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST.rawValue)
        $0.add(NFTA_REJECT_ICMP_CODE, [0])
    }
}
#endif
