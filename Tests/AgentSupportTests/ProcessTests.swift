import AgentSupport
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

@Suite struct ProcessTests {
    @Test func `as many descriptors as may be`() {
        let limit = AgentSupport.Process.raiseDescriptorLimit()
        #expect(limit >= 256)
        #expect(AgentSupport.Process.raiseDescriptorLimit() == limit)
    }

    #if canImport(Glibc)
    @Test func `no core dump, to a file or through a pipe`() {
        AgentSupport.Process.forbidCoreDumps()
        var limit = rlimit()
        #expect(getrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit) == 0)
        #expect(limit.rlim_cur <= 1 && limit.rlim_max <= 1)
    }
    #endif
}
