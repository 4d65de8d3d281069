#if os(Linux)
import CNetlink
import InterceptModel

/// The rules for the kernel, in nft(8)'s language:
///
///     table inet kl_… {
///         flags owner
///         set live { type inet_service; flags timeout; timeout 10s; }
///         map listeners { type inet_service : inet_service; elements = { 8080 : 40001 }; }
///         set live_udp …, map listeners_udp …                        (the same of UDP, where there is any)
///         chain divert {
///             meta mark 0x206c return
///             fib daddr type != local return
///             tcp flags & (fin|syn|rst|ack) == syn tcp dport @live dnat to :tcp dport map @listeners
///             udp dport @live_udp dnat to :udp dport map @listeners_udp
///         }
///         chain prerouting { type nat hook prerouting priority -95; iifname != "lo" jump divert; }
///         chain output {
///             type nat hook output priority -105
///             ip daddr 127.0.0.0/8 return
///             ip6 daddr ::1 return
///             jump divert
///         }
///         chain tracked {
///             type filter hook input priority 0
///             udp dport { 40003 } ct status dnat accept
///             udp dport { 40003 } drop
///             ct state established accept
///         }
///         chain own {
///             type filter hook output priority -310
///             ip6 saddr fe80::/16 return
///             meta mark 0x206c ct original zone set 8300
///         }
///         chain answers {
///             type route hook output priority 290
///             ct direction reply ct original zone 8300 meta mark set 0x2068
///         }
///     }
///
/// Only the netlink socket that created the table may change it, and the kernel removes the table with the socket, however
/// the process ends (`flags owner`).
///
/// Only the port is translated (`dnat to :PORT`). `redirect` would also change the address, for clients in the namespace to
/// the loopback's, which a client that is bound to a device or calls a link-local address can't reach.
///
/// The last two chains exist if the agent connects to the original with its clients' addresses (`AnswerRouting`). The agent's
/// connection may then have the same addresses and ports as the client's own, and the kernel would confuse the two: so the
/// agent's connections are in a zone of their own, in the direction of their first packet. In the direction of the answers,
/// addresses and ports can occur only once, as they can at the original: where they would occur twice, the kernel translates the
/// source port of the later connection, whichever of the two that is.
/// The zone also tells which answers are for the agent: no other program saves, restores or masks it, as some do with
/// connections' marks.
struct RedirectRules: Equatable {
    typealias Step = NFTablesMessage
    private typealias Part = NFTablesExpression

    /// The table's name: `kl_` and a random word, so that it can't collide with another agent's.
    var table: String
    /// From service port to listener port, for TCP and for UDP.
    var listeners: [UInt16: UInt16]
    var datagramListeners: [UInt16: UInt16] = [:]
    /// Whether connections over the loopback are redirected, too.
    var includesLoopback: Bool
    /// The mark of the agent's own connections, which aren't redirected.
    var mark: UInt32
    /// Whether answers to the agent's own connections are marked, so that they are routed back to it.
    var returnsAnswers = false

    /// The mark of the original's answers to the agent's own connections. It has none of the bits that `mark` avoids, nor the
    /// lowest bits, which other programs' rules for transparent proxies often test.
    static let answerMark: UInt32 = 0x2068
    /// The zone of connection tracking for the agent's own connections.
    static let zone: UInt16 = 8_300

    /// The names of the workspaces that hold the ports, which the table shows to people and to other sidecars here.
    var labels: [ServicePort: String] = [:]

    /// A port is redirected while it is in the set. It expires after this time unless it is renewed. †
    static let lifetimeSeconds = 10

    static let live = NFTablesSet(name: "live", id: 1, lifetimeSeconds: Self.lifetimeSeconds)
    private static let listenerMap = NFTablesSet(name: "listeners", id: 2, isMap: true)
    static let liveDatagrams = NFTablesSet(name: "live_udp", id: 3, lifetimeSeconds: Self.lifetimeSeconds)
    private static let datagramMap = NFTablesSet(name: "listeners_udp", id: 4, isMap: true)
    private static let divert = "divert"
    private static let prerouting = "prerouting"
    private static let output = "output"
    private static let tracked = "tracked"
    private static let ending = "ending"
    private static let own = "own"
    private static let answers = "answers"

    private var hasDatagrams: Bool { !self.datagramListeners.isEmpty }

    /// Creates the table with these ports in one transaction, replacing an existing one.
    ///
    /// `dstnat` is -100. The priorities are just after it in prerouting and just before it in output, so that a service
    /// mesh's rules come first.
    func create(diverting ports: DivertedPorts) -> [Step] {
        var steps: [Step] = [.addTable(self.table), .deleteTable(self.table), .addTable(self.table)]
        steps += [
            .addChain(self.table, Self.divert),
            .addChain(self.table, Self.prerouting, .nat, .prerouting, priority: -95),
            .addChain(self.table, Self.output, .nat, .output, priority: -105),
            .addChain(self.table, Self.tracked, .filter, .input, priority: 0),
            Self.live.add(to: self.table),
            Self.listenerMap.add(to: self.table),
        ]
        steps += Self.listenerMap.fill(self.table, self.listeners)
        if self.hasDatagrams {
            steps += [Self.liveDatagrams.add(to: self.table), Self.datagramMap.add(to: self.table)]
            steps += Self.datagramMap.fill(self.table, self.datagramListeners)
        }
        steps += self.divertRules + self.hookRules + self.trackedRules
        if self.returnsAnswers { steps += self.answerRules }
        return steps + self.fill(ports)
    }

    private var divertRules: [Step] {
        let isSYN = [.payload(.flags), .masked([0x17]), Part.isEqual([0x02])]
        var rules: [[Part]] = [
            self.ownPasses,
            // RTN_LOCAL of linux/rtnetlink.h.
            [.destinationKind, .isOther(than: Self.native(UInt32(2))), .goBack],
            Self.isTCP + isSYN
                + [
                    .payload(.destinationPort), .isIn(Self.live), .payload(.destinationPort), .map(Self.listenerMap),
                    .translateToPort,
                ],
        ]
        if self.hasDatagrams {
            // Only a flow's first packet is matched. A flow that the kernel already tracks must be forgotten first
            // (`ConnectionTracking`).
            rules.append(
                Self.isUDP
                    + [
                        .payload(.destinationPort), .isIn(Self.liveDatagrams), .payload(.destinationPort),
                        .map(Self.datagramMap), .translateToPort,
                    ]
            )
        }
        return rules.map { .addRule(self.table, Self.divert, $0) }
    }

    private var hookRules: [Step] {
        let fromOutside: [Part] = [
            .meta(NFT_META_IIFNAME), .isOther(than: Array("lo".utf8) + Array(repeating: 0, count: 14)),
            .jump(Self.divert),
        ]
        return [.addRule(self.table, Self.prerouting, fromOutside)] + self.loopbackStays(Self.output)
            + [.addRule(self.table, Self.output, [.jump(Self.divert)])]
    }

    private var trackedRules: [Step] {
        var steps: [Step] = []
        if self.hasDatagrams {
            // Clients must not use the listeners directly.
            let ports = Set(self.datagramListeners.values)
            // IPS_DST_NAT.
            let isTranslated = [Part.connection(NFT_CT_STATUS)] + Self.hasBit(IPS_DST_NAT.rawValue)
            for (id, decision) in [(UInt32(5), isTranslated + [.accept]), (6, [.drop])] {
                let set = NFTablesSet.unnamed(id: id, count: ports.count)
                steps += [set.add(to: self.table)] + set.fill(self.table, ports)
                let rule = Self.isUDP + [.payload(.destinationPort), .isIn(set)] + decision
                steps.append(.addRule(self.table, Self.tracked, rule))
            }
        }
        // NF_CT_STATE_BIT(IP_CT_ESTABLISHED) of linux/netfilter/nf_conntrack_common.h.
        let isEstablished = [Part.connection(NFT_CT_STATE)] + Self.hasBit(2)
        return steps + [.addRule(self.table, Self.tracked, isEstablished + [.accept])]
    }

    /// The zone is set before `raw` (-300), where other programs decide what isn't tracked. The mark is set after all other
    /// chains, since a chain that restores a connection's mark would remove it.
    var answerRules: [Step] {
        let isOwn: [Part] = [.meta(NFT_META_MARK), .isEqual(Self.native(self.mark))]
        let zone = Self.native(Self.zone)
        // IP_CT_DIR_REPLY of linux/netfilter/nf_conntrack_tuple_common.h.
        let isAnswer = [Part.connection(NFT_CT_DIRECTION), .isEqual([1]), .original(NFT_CT_ZONE), .isEqual(zone)]
        // A link-local address is answered on its link; another route would lead the answer astray.
        let isOnLink =
            Self.isFamily(10)
            + [.payload(NFT_PAYLOAD_NETWORK_HEADER, offset: 8, count: 2), Part.isEqual([0xFE, 0x80]), .goBack]
        return [
            .addChain(self.table, Self.own, .filter, .output, priority: -310),
            .addChain(self.table, Self.answers, .route, .output, priority: 290),
            .addRule(self.table, Self.own, isOnLink),
            .addRule(self.table, Self.own, isOwn + [.value(zone), .setOriginalZone]),
            .addRule(self.table, Self.answers, isAnswer + [.value(Self.native(Self.answerMark)), .setMark]),
        ]
    }

    /// Sets exactly these ports with a new lifetime. The set is flushed first, since adding an existing element doesn't renew it.
    func renew(_ ports: DivertedPorts) -> [Step] {
        [Self.live.flush(self.table)] + (self.hasDatagrams ? [Self.liveDatagrams.flush(self.table)] : [])
            + self.fill(ports)
    }

    private func fill(_ ports: DivertedPorts) -> [Step] {
        func comments(_ transport: Transport) -> [UInt16: String] {
            let some = self.labels.filter { $0.key.transport == transport }
            return Dictionary(uniqueKeysWithValues: some.map { ($0.key.number, $0.value) })
        }
        return Self.live.fill(self.table, ports.tcp, comments: comments(.tcp))
            + Self.liveDatagrams.fill(self.table, ports.udp, comments: comments(.udp))
    }

    /// For a kernel without SOCK_DESTROY: connections to the original are reset at their client's next packet. They aren't
    /// translated, so the table's other rules don't match them.
    ///
    ///     chain ending {
    ///         type filter hook input priority 0
    ///         ip daddr 127.0.0.0/8 return
    ///         ip6 daddr ::1 return
    ///         meta mark 0x206c return
    ///         tcp dport @live tcp dport { 8080 } tcp flags & (syn|rst) == 0 reject with tcp reset
    ///     }
    ///
    /// Only while a port is in `live`: once it has expired, its connections are new ones to the original.
    func rejectOriginals(on ports: Set<UInt16>) -> [Step] {
        let set = NFTablesSet.unnamed(id: 7, count: ports.count)
        let isNeither: [Part] = [.payload(.flags), .masked([0x06]), .isEqual([0])]
        let rule =
            Self.isTCP + [.payload(.destinationPort), .isIn(Self.live), .payload(.destinationPort), .isIn(set)]
            + isNeither + [.reset]
        return [
            .addTable(self.table), .addChain(self.table, Self.ending, .filter, .input, priority: 0),
        ] + self.loopbackStays(Self.ending) + [.addRule(self.table, Self.ending, self.ownPasses)]
            + [set.add(to: self.table)] + set.fill(self.table, ports)
            + [.addRule(self.table, Self.ending, rule)]
    }

    /// Undoes `rejectOriginals`.
    var keepOriginals: [Step] { [.deleteChain(self.table, Self.ending)] }

    var delete: [Step] { [.deleteTable(self.table)] }

    // MARK: Pieces

    private var ownPasses: [Part] { [.meta(NFT_META_MARK), .isEqual(Self.native(self.mark)), .goBack] }

    /// 127.0.0.0/8 and ::1.
    private func loopbackStays(_ chain: String) -> [Step] {
        guard !self.includesLoopback else { return [] }
        let one: [UInt8] = Array(repeating: 0, count: 15) + [1]
        let rules: [[Part]] = [
            Self.isFamily(2) + [.payload(NFT_PAYLOAD_NETWORK_HEADER, offset: 16, count: 1), .isEqual([127]), .goBack],
            Self.isFamily(10) + [.payload(NFT_PAYLOAD_NETWORK_HEADER, offset: 24, count: 16), .isEqual(one), .goBack],
        ]
        return rules.map { .addRule(self.table, chain, $0) }
    }

    /// NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
    private static func isFamily(_ family: UInt8) -> [Part] { [.meta(NFT_META_NFPROTO), .isEqual([family])] }

    private static let isTCP: [Part] = [.meta(NFT_META_L4PROTO), .isEqual([6])]
    private static let isUDP: [Part] = [.meta(NFT_META_L4PROTO), .isEqual([17])]

    private static func hasBit(_ bit: UInt32) -> [Part] {
        [.masked(Self.native(bit)), .isOther(than: Self.native(UInt32(0)))]
    }

    /// The kernel loads its own numbers into the register in host byte order.
    private static func native(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number) { Array($0) }
    }
}

extension NFTablesExpression {
    /// A field of the TCP header; UDP has its ports at the same offsets.
    fileprivate enum Field {
        case destinationPort
        case flags
    }

    fileprivate static func payload(_ field: Field) -> Self {
        switch field {
        case .destinationPort: .payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, count: 2)
        case .flags: .payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, count: 1)
        }
    }
}
#endif
