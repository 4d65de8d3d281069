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
