import Testing

@testable import Diversion

struct NetworkNamespaceTests {
    @Test func aFlagIsAPathOrAProcess() throws {
        #expect(try NetworkNamespace(flag: "pid:17") == .process(17))
        #expect(try NetworkNamespace(flag: "pid:17").path == "/proc/17/ns/net")
        #expect(try NetworkNamespace(flag: "/run/netns/blue") == .path("/run/netns/blue"))
    }

    @Test(arguments: ["", "pid:", "pid:x", "pid:0", "pid:-1", "pid:2147483648", "a\0b"])
    func others(flag: String) {
        #expect(throws: DiversionError.self) { try NetworkNamespace(flag: flag) }
    }

    @Test func aProcessWithThreadsStaysWhereItIs() {
        let error = #expect(throws: DiversionError.self) { try NetworkNamespace.path("/proc/self/ns/net").enter() }
        #expect(error?.description.contains("threads already") == true)
    }
}

#if os(Linux)
struct NFTablesErrorTests {
    @Test(arguments: [
        ("Error: Could not process rule: Operation not permitted\nadd table inet x\n^^^", "CAP_NET_ADMIN"),
        ("/dev/stdin:7:1-2: Error: Could not process rule: No such file or directory\nx", "nft_redir"),
        ("Operation not permitted", "CAP_NET_ADMIN"),
        ("Protocol not supported", "nf_tables"),
        ("netlink: Error: cache initialization failed: Operation not permitted", "CAP_NET_ADMIN"),
        ("Error: syntax error, unexpected newline", "syntax error"),
        ("", "unknown"),
    ])
    func whatToDoIsSaid(problem: String, word: String) {
        let error = NFTables.error(problem, whileDoing: "checking the rules")
        #expect(error.description.contains(word), "\(error)")
        #expect(error.description.contains("checking the rules"))
        #expect(!error.description.contains("\n"))
    }
}
#endif
