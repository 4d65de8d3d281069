#if os(Linux)
import CNetlink

/// One step of an nf_tables transaction (linux/netfilter/nf_tables.h), for the family inet.
struct NFTablesMessage: Equatable {
    /// NFT_MSG_NEWTABLE or another type.
    var type: nf_tables_msg_types
    /// In addition to NLM_F_REQUEST.
    var flags: CInt = 0
    var attributes: NetlinkAttributes
    /// Names the step in error messages.
    var subject: String
    /// The kernel modules that it needs.
    var modules: [String] = []

    /// Encodes the steps as one transaction: the kernel executes all of them or none.
    ///
    /// - Parameters:
    ///   - first: the sequence number of the transaction's begin; the steps have the numbers after it.
    ///   - commits: if false, the kernel checks the steps and then discards them.
    static func transaction(_ steps: [Self], first: UInt32, commits: Bool) -> [UInt8] {
        let subsystem = Self.bytes(UInt16(NFNL_SUBSYS_NFTABLES))
        var bytes = Self.message(UInt16(NFNL_MSG_BATCH_BEGIN), 0, first, AF_UNSPEC, subsystem, [])
        var number = first
        for (index, step) in steps.enumerated() {
            number &+= 1
            // The kernel answers only errors by default. The last step asks for an acknowledgement, which shows that the
            // answer is complete.
            let acknowledged = index == steps.count - 1 ? NLM_F_ACK : 0
            let type = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(step.type.rawValue)
            bytes += Self.message(type, step.flags | acknowledged, number, Self.inet, [0, 0], step.attributes.bytes)
        }
        guard commits else { return bytes }
        return bytes + Self.message(UInt16(NFNL_MSG_BATCH_END), 0, number &+ 1, AF_UNSPEC, subsystem, [])
    }

    /// NFPROTO_INET of linux/netfilter.h: IPv4 and IPv6.
    static let inet: CInt = 1

    /// A complete nfnetlink message.
    static func message(
        _ type: UInt16,
        _ flags: CInt,
        _ sequence: UInt32,
        _ family: CInt,
        _ resource: [UInt8],
        _ attributes: [UInt8]
    ) -> [UInt8] {
        var header = nlmsghdr()
        header.nlmsg_len = UInt32(MemoryLayout<nlmsghdr>.size + MemoryLayout<nfgenmsg>.size + attributes.count)
        header.nlmsg_type = type
        header.nlmsg_flags = UInt16(NLM_F_REQUEST | flags)
        header.nlmsg_seq = sequence
        var bytes: [UInt8] = []
        withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
        // In nfgenmsg, only the last field is in network order.
        return bytes + [UInt8(family), UInt8(NFNETLINK_V0)] + resource + attributes
    }

    private static func bytes(_ number: UInt16) -> [UInt8] { NetlinkAttributes.bytes(number) }
}

// MARK: The steps that the diversion uses

extension NFTablesMessage {
    /// A table that is removed with the socket that sends this.
    static func addTable(_ table: String) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_TABLE_NAME, table)
            $0.add(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER.rawValue)
        }
        return Self(
            type: NFT_MSG_NEWTABLE,
            attributes: attributes,
            subject: "the table",
            modules: ["nf_tables with flags owner (Linux 5.12)"]
        )
    }

    static func deleteTable(_ table: String) -> Self {
        let attributes = NetlinkAttributes { $0.add(NFTA_TABLE_NAME, table) }
        return Self(type: NFT_MSG_DELTABLE, attributes: attributes, subject: "the table")
    }

    /// The netfilter hook (linux/netfilter.h) that a chain is attached to.
    enum Hook: Equatable {
        case prerouting
        case input
        case output

        var number: UInt32 {
            switch self {
            case .prerouting: 0
            case .input: 1
            case .output: 3
            }
        }
    }

    /// A chain that other rules jump to.
    static func addChain(_ table: String, _ chain: String) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_CHAIN_TABLE, table)
            $0.add(NFTA_CHAIN_NAME, chain)
        }
        return Self(type: NFT_MSG_NEWCHAIN, flags: NLM_F_CREATE, attributes: attributes, subject: "chain \(chain)")
    }

    /// What a chain's rules may do.
    enum ChainKind: String {
        case filter
        case nat
        /// The kernel routes the packet again if the chain's rules change its mark.
        case route
    }

    /// A chain that the kernel calls. Packets that no rule decides on are accepted.
    static func addChain(_ table: String, _ chain: String, _ kind: ChainKind, _ hook: Hook, priority: Int32) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_CHAIN_TABLE, table)
            $0.add(NFTA_CHAIN_NAME, chain)
            $0.add(NFTA_CHAIN_TYPE, kind.rawValue)
            // NF_ACCEPT of linux/netfilter.h.
            $0.add(NFTA_CHAIN_POLICY, UInt32(1))
            $0.add(
                NFTA_CHAIN_HOOK,
                NetlinkAttributes {
                    $0.add(NFTA_HOOK_HOOKNUM, hook.number)
                    $0.add(NFTA_HOOK_PRIORITY, UInt32(bitPattern: priority))
                }
            )
        }
        return Self(
            type: NFT_MSG_NEWCHAIN,
            flags: NLM_F_CREATE,
            attributes: attributes,
            subject: "chain \(chain)",
            modules: kind == .nat ? ["nft_chain_nat"] : []
        )
    }

    static func deleteChain(_ table: String, _ chain: String) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_CHAIN_TABLE, table)
            $0.add(NFTA_CHAIN_NAME, chain)
        }
        return Self(type: NFT_MSG_DELCHAIN, attributes: attributes, subject: "chain \(chain)")
    }

    /// Appends a rule to a chain.
    static func addRule(_ table: String, _ chain: String, _ expressions: [NFTablesExpression]) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_RULE_TABLE, table)
            $0.add(NFTA_RULE_CHAIN, chain)
            $0.add(
                NFTA_RULE_EXPRESSIONS,
                NetlinkAttributes { list in
                    for expression in expressions { list.add(NFTA_LIST_ELEM, expression.attributes) }
                }
            )
        }
        return Self(
            type: NFT_MSG_NEWRULE,
            flags: NLM_F_CREATE | NLM_F_APPEND,
            attributes: attributes,
            subject: "a rule of chain \(chain)",
            modules: expressions.compactMap(\.module)
        )
    }
}
#endif
