import Testing

@testable import Diversion

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

struct RedirectRulesTests {
    private let rules = RedirectRules(
        table: "kl_0123456789abcdef",
        listeners: [9_090: 40_002, 8_080: 40_001],
        includesLoopback: false,
        mark: 0x206C
    )

    @Test func theTableIsMadeAnewInOneTransaction() {
        let lines = self.rules.create(diverting: .init(tcp: [9_090, 8_080])).split(separator: "\n")
            .map { $0.drop { $0 == " " } }
        #expect(
            lines.prefix(4) == [
                "table inet kl_0123456789abcdef { flags owner; }",
                "delete table inet kl_0123456789abcdef",
                "table inet kl_0123456789abcdef {",
                "flags owner",
            ]
        )
        #expect(lines.contains("set live { type inet_service; flags timeout; timeout 10s; }"))
        #expect(lines.contains("meta mark 8300 return"))
        #expect(
            lines.contains(
                "map listeners { type inet_service : inet_service; elements = { 8080 : 40001, 9090 : 40002 }; }"
            )
        )
        #expect(lines.last == "add element inet kl_0123456789abcdef live { 8080, 9090 }")
    }

    @Test func theLoopbackIsLeftAloneUnlessItIsWanted() {
        #expect(self.rules.create(diverting: .init(tcp: [8_080])).contains("127.0.0.0/8 return"))
        #expect(self.rules.rejectOriginals(on: [8_080]).contains("ip6 daddr ::1 return"))
        var all = self.rules
        all.includesLoopback = true
        #expect(!all.create(diverting: .init(tcp: [8_080])).contains("127.0.0.0/8"))
        #expect(!all.rejectOriginals(on: [8_080]).contains("::1"))
    }

    @Test func whatIsInTheSetIsRenewedByTakingItOut() {
        #expect(
            self.rules.renew(.init(tcp: [8_080, 53])) == """
                flush set inet kl_0123456789abcdef live
                add element inet kl_0123456789abcdef live { 53, 8080 }

                """
        )
        #expect(self.rules.renew(.init()) == "flush set inet kl_0123456789abcdef live\n")
    }

    /// A sidecar that hangs, or that has been stopped, ends nobody's connection.
    @Test func whatIsOpenToTheOriginalIsEndedOnlyWhileItsPortIsRedirected() {
        let rules = self.rules.rejectOriginals(on: [8_080, 9_090])
        #expect(rules.contains("tcp dport @live tcp dport { 8080, 9090 } tcp flags & (syn|rst) == 0 reject"))
    }

    // MARK: UDP

    private var withDatagrams: RedirectRules {
        var rules = self.rules
        rules.datagramListeners = [53: 40_003, 123: 40_004]
        return rules
    }

    @Test func aFlowIsRedirectedByItsFirstPacket() {
        let lines = self.withDatagrams.create(diverting: .init(tcp: [8_080], udp: [53])).split(separator: "\n")
            .map { $0.drop { $0 == " " } }
        #expect(lines.contains("udp dport @live_udp redirect to :udp dport map @listeners_udp"))
        #expect(
            lines.contains(
                "map listeners_udp { type inet_service : inet_service; elements = { 53 : 40003, 123 : 40004 }; }"
            )
        )
        #expect(
            lines.suffix(2) == [
                "add element inet kl_0123456789abcdef live { 8080 }",
                "add element inet kl_0123456789abcdef live_udp { 53 }",
            ]
        )
    }

    @Test func nobodySendsToAListenerItself() {
        let lines = self.withDatagrams.create(diverting: .init(udp: [53])).split(separator: "\n")
            .map { $0.drop { $0 == " " } }
        let redirected = lines.firstIndex(of: "udp dport { 40003, 40004 } ct status dnat accept")
        let others = lines.firstIndex(of: "udp dport { 40003, 40004 } drop")
        #expect(redirected != nil && redirected.map { $0 + 1 } == others)
    }

    @Test func bothSetsAreRenewed() {
        #expect(
            self.withDatagrams.renew(.init(tcp: [8_080], udp: [53])) == """
                flush set inet kl_0123456789abcdef live
                flush set inet kl_0123456789abcdef live_udp
                add element inet kl_0123456789abcdef live { 8080 }
                add element inet kl_0123456789abcdef live_udp { 53 }

                """
        )
    }

    @Test func whereThereIsNoUDPNothingSpeaksOfIt() {
        let all = self.rules.create(diverting: .init(tcp: [8_080])) + self.rules.renew(.init(tcp: [8_080]))
        #expect(!all.contains("udp"))
    }

    #if os(Linux)
    /// The kernel takes any text as a table's name.
    @Test func aTablesNameIsNoCommand() {
        #expect(NFTables.isAgents("kl_0123456789abcdef"))
        for name in ["other", "kl-a", "kl_a;flush", "kl_a;include\"/dev/zero\"", "kl_a\tb", "kl_\u{e9}"] {
            #expect(!NFTables.isAgents(name))
        }
    }

    /// The kernel checks it, and forgets it.
    @Test(.enabled(if: geteuid() == 0, "asking the kernel needs root"), arguments: [false, true])
    func theKernelWouldDoIt(includesLoopback: Bool) throws {
        var rules = self.rules
        rules.includesLoopback = includesLoopback
        let nftables = try NFTables()
        let ending = rules.rejectOriginals(on: [8_080, 9_090]) + rules.keepOriginals
        try nftables.check(rules.create(diverting: .init(tcp: [8_080])) + ending + rules.delete)
        rules.datagramListeners = [53: 40_003]
        try nftables.check(rules.create(diverting: .init(tcp: [8_080], udp: [53])) + ending + rules.delete)
        // By another context, which remembers nothing of it.
        #expect(try !NFTables().run("list tables inet", "listing").contains(rules.table))
    }
    #endif
}
