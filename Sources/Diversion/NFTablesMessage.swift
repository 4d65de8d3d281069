#if os(Linux)
import CNetlink

/// One step of a change of nf_tables' rules (linux/netfilter/nf_tables.h), for the family inet.
struct NFTablesMessage: Equatable {
    /// NFT_MSG_NEWTABLE and the others.
    var type: nf_tables_msg_types
    /// Besides NLM_F_REQUEST.
    var flags: CInt = 0
    var attributes: NetlinkAttributes
    /// For the sentence that says which step has failed.
    var subject: String
    /// The parts of the kernel that it takes, by the names of their modules.
    var modules: [String] = []

    /// Bytes of some steps as one transaction: all of them are done, or none.
    ///
    /// - Parameters:
    ///   - first: the sequence number of the transaction's begin; the steps have those that follow.
    ///   - commits: without it the kernel checks all, and then forgets all.
    static func transaction(_ steps: [Self], first: UInt32, commits: Bool) -> [UInt8] {
        let subsystem = Self.bytes(UInt16(NFNL_SUBSYS_NFTABLES))
        var bytes = Self.message(UInt16(NFNL_MSG_BATCH_BEGIN), 0, first, AF_UNSPEC, subsystem, [])
        var number = first
        for (index, step) in steps.enumerated() {
            number &+= 1
            // The kernel is silent about what succeeds: the last is acknowledged so that its answer is known to be whole.
            let acknowledged = index == steps.count - 1 ? NLM_F_ACK : 0
            let type = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(step.type.rawValue)
            bytes += Self.message(type, step.flags | acknowledged, number, Self.inet, [0, 0], step.attributes.bytes)
        }
        guard commits else { return bytes }
        return bytes + Self.message(UInt16(NFNL_MSG_BATCH_END), 0, number &+ 1, AF_UNSPEC, subsystem, [])
    }

    /// NFPROTO_INET of linux/netfilter.h: IPv4 and IPv6.
    static let inet: CInt = 1

    /// A message of nfnetlink.
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
        // nfgenmsg: its last field, and no other, is in network order.
        return bytes + [UInt8(family), UInt8(NFNETLINK_V0)] + resource + attributes
    }

    private static func bytes(_ number: UInt16) -> [UInt8] { NetlinkAttributes.bytes(number) }
}

// MARK: What the diversion needs of them

extension NFTablesMessage {
    /// A table that goes with the socket that sends this.
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

    /// Where a chain is called from: a hook of linux/netfilter.h, with its priority.
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

    /// A chain that the kernel calls; what no rule decides is accepted.
    static func addChain(_ table: String, _ chain: String, isNAT: Bool, _ hook: Hook, priority: Int32) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_CHAIN_TABLE, table)
            $0.add(NFTA_CHAIN_NAME, chain)
            $0.add(NFTA_CHAIN_TYPE, isNAT ? "nat" : "filter")
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
            modules: isNAT ? ["nft_chain_nat"] : []
        )
    }

    static func deleteChain(_ table: String, _ chain: String) -> Self {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_CHAIN_TABLE, table)
            $0.add(NFTA_CHAIN_NAME, chain)
        }
        return Self(type: NFT_MSG_DELCHAIN, attributes: attributes, subject: "chain \(chain)")
    }

    /// The last of a chain's rules.
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
