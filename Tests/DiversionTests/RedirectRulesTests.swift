#if os(Linux)
import CNetlink
import Libc
import Testing

@testable import Diversion

struct RedirectRulesTests {
    private let rules = RedirectRules(
        table: "kl_0123456789abcdef",
        listeners: [9_090: 40_002, 8_080: 40_001],
        datagramListeners: [53: 40_003, 123: 40_004],
        includesLoopback: false,
        mark: 0x206C
    )

    private var withoutDatagrams: RedirectRules {
        var rules = self.rules
        rules.datagramListeners = [:]
        return rules
    }

    // MARK: As nft says it

    @Test func theTableIsWhatNftMakesOfTheSameRules() {
        let steps = self.rules.create(diverting: .init(tcp: [9_090, 8_080], udp: [53]))
        self.expect(steps, RecordedMessages.create)
    }

    @Test func portsAreRenewedByTakingThemOut() {
        self.expect(self.rules.renew(.init(tcp: [8_080])), RecordedMessages.renew)
    }

    @Test func whatIsOpenToTheOriginalIsEnded() {
        self.expect(self.rules.rejectOriginals(on: [8_080, 9_090]), RecordedMessages.rejectOriginals)
        self.expect(self.rules.keepOriginals, RecordedMessages.keepOriginals)
    }

    @Test func answersAreMarkedAsNftDoesIt() {
        self.expect([.addTable(self.rules.table)] + self.rules.answerRules, RecordedMessages.answers)
        var returning = self.rules
        returning.returnsAnswers = true
        let ports = DivertedPorts(tcp: [8_080])
        let added = returning.create(diverting: ports).filter { !self.rules.create(diverting: ports).contains($0) }
        #expect(added == self.rules.answerRules)
    }

    @Test func theTableIsDeleted() { self.expect(self.rules.delete, RecordedMessages.delete) }

    private func expect(
        _ steps: [NFTablesMessage],
        _ recorded: [(type: UInt32, flags: UInt16, attributes: String)],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(steps.count == recorded.count, sourceLocation: sourceLocation)
        for (step, other) in zip(steps, recorded) {
            #expect(step.type.rawValue == other.type, "\(step.subject)", sourceLocation: sourceLocation)
            let flags = UInt16(NLM_F_REQUEST | step.flags)
            #expect(flags == other.flags, "\(step.subject)", sourceLocation: sourceLocation)
            let bytes = Self.hexadecimal(step.attributes.bytes)
            #expect(bytes == other.attributes, "\(step.subject)", sourceLocation: sourceLocation)
        }
    }

    private static func hexadecimal(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef")
        return String(bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
    }

    // MARK: What may be left out

    private func steps(of chain: String, _ steps: [NFTablesMessage]) -> Int {
        steps.count { $0.type == NFT_MSG_NEWRULE && $0.subject.hasSuffix(" \(chain)") }
    }

    @Test func theLoopbackIsLeftAloneUnlessItIsWanted() {
        var all = self.rules
        all.includesLoopback = true
        let ports = DivertedPorts(tcp: [8_080])
        #expect(self.steps(of: "output", self.rules.create(diverting: ports)) == 3)
        #expect(self.steps(of: "output", all.create(diverting: ports)) == 1)
        #expect(self.steps(of: "ending", self.rules.rejectOriginals(on: [8_080])) == 4)
        #expect(self.steps(of: "ending", all.rejectOriginals(on: [8_080])) == 2)
    }

    @Test func whereThereIsNoUDPNothingSpeaksOfIt() {
        let rules = self.withoutDatagrams
        let all = rules.create(diverting: .init(tcp: [8_080])) + rules.renew(.init(tcp: [8_080]))
        #expect(!all.contains { Self.hexadecimal($0.attributes.bytes).contains("756470") })
        #expect(self.steps(of: "divert", all) == 3)
        #expect(self.steps(of: "tracked", all) == 1)
        #expect(rules.renew(.init()).count == 1)
        #expect(self.rules.renew(.init()).count == 2)
    }

    /// An attribute has at most 64 KiB.
    @Test func manyPortsAreSeveralSteps() {
        let set = NFTablesSet(name: "ports", id: 1)
        let steps = set.fill("kl_a", Set(1...UInt16.max))
        #expect(steps.count == 64)
        #expect(steps.allSatisfy { $0.attributes.bytes.count < 65_535 })
    }

    // MARK: A transaction

    @Test func aTransactionIsOneOnlyWithItsEnd() {
        let steps = self.rules.renew(.init(tcp: [8_080]))
        var types: [UInt16] = []
        var numbers: [UInt32] = []
        var flags: [UInt16] = []
        for commits in [true, false] {
            let bytes = NFTablesMessage.transaction(steps, first: 7, commits: commits)
            (types, numbers, flags) = ([], [], [])
            let end = bytes.withUnsafeBytes { bytes in
                NetlinkMessages.walk(bytes) { header, _ in
                    types.append(header.nlmsg_type)
                    numbers.append(header.nlmsg_seq)
                    flags.append(header.nlmsg_flags)
                    return nil
                }
            }
            #expect(end == nil)
            // NFNL_MSG_BATCH_BEGIN, twice DELSETELEM, NEWSETELEM, NFNL_MSG_BATCH_END.
            #expect(types == [16, 0x0A0E, 0x0A0E, 0x0A0C] + (commits ? [17] : []))
            #expect(numbers == Array(7..<UInt32(7 + types.count)))
            // Only the last step asks for an answer.
            #expect(flags.map { $0 & UInt16(NLM_F_ACK) != 0 }.prefix(4) == [false, false, false, true])
        }
    }

    // MARK: The kernel

    /// The kernel takes any text as a table's name.
    @Test func aTablesNameIsPlainText() {
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
        var returning = rules
        returning.returnsAnswers = true
        for rules in [rules, self.withoutDatagrams, returning] {
            let ports = DivertedPorts(tcp: [8_080], udp: rules.datagramListeners.isEmpty ? [] : [53])
            let ending = rules.rejectOriginals(on: [8_080, 9_090]) + rules.renew(ports) + rules.keepOriginals
            try nftables.check(rules.create(diverting: ports) + ending + rules.delete)
        }
        // While the kernel undoes what another test has it check (a table added, deleted and added), that table can be listed.
        #expect(try (0..<100).contains { _ in try !NFTables.tables().contains(rules.table) })
    }

    @Test(.enabled(if: geteuid() == 0, "asking the kernel needs root"))
    func theKernelTakesManyPorts() throws {
        var rules = self.rules
        rules.listeners = Dictionary(uniqueKeysWithValues: (1...4_000).map { ($0, $0 + 40_000) })
        try NFTables().check(rules.create(diverting: .init(tcp: Set(rules.listeners.keys))))
    }

    @Test(.enabled(if: geteuid() == 0, "asking the kernel needs root"))
    func aTableGoesWithItsOwner() throws {
        var rules = self.rules
        rules.table = "kl_0123456789abcde0"
        do {
            let nftables = try NFTables()
            // Nothing is diverted in it.
            try nftables.run(rules.create(diverting: .init()), "making the table")
            #expect(try NFTables.tables().contains(rules.table))
            // Nobody else can remove it.
            try NFTables().removeLeftTables()
            #expect(try NFTables.tables().contains(rules.table))
            let refused = #expect(throws: DiversionError.self) {
                try NFTables().run(rules.delete, "removing the table")
            }
            #expect(refused?.description.contains("CAP_NET_ADMIN") == true)
            withExtendedLifetime(nftables) {}
        }
        #expect(try !NFTables.tables().contains(rules.table))
    }

    @Test(.enabled(if: geteuid() == 0, "asking the kernel needs root"))
    func theFirstStepThatFailsIsNamed() throws {
        let nftables = try NFTables()
        let error = #expect(throws: DiversionError.self) {
            try nftables.run(self.rules.renew(.init(tcp: [8_080])), "renewing the ports")
        }
        #expect(error?.description.contains("renewing the ports: the ports of set live") == true, "\(error as Any)")
        // The socket is still of use.
        try nftables.check(self.rules.create(diverting: .init()))
    }
}

struct NFTablesFailureTests {
    private static let chain = NFTablesMessage.addChain("kl_a", "output", .nat, .output, priority: -105)

    @Test(arguments: [
        (EPERM, nil, "CAP_NET_ADMIN"),
        (ENOENT, Self.chain, "checking the rules: chain output"),
        (ENOENT, Self.chain, "nft_chain_nat"),
        (EOPNOTSUPP, NFTablesMessage.addTable("kl_a"), "flags owner"),
        (EOPNOTSUPP, NFTablesMessage.deleteTable("kl_a"), "nf_tables"),
        (
            EINVAL, NFTablesMessage.addRule("kl_a", "divert", [.destinationKind, .translateToPort]),
            "nft_fib_inet, nft_nat"
        ),
        (ENOMEM, nil, "annot allocate memory"),
    ])
    func whatToDoIsSaid(code: CInt, step: NFTablesMessage?, words: String) {
        let error = NFTablesFailure(code: code, step: step).error(whileDoing: "checking the rules")
        #expect(error.description.contains(words), "\(error)")
        #expect(!error.description.contains("\n"))
    }
}
#endif
