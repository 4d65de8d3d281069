import HostSupport
import Libc
import Testing

@Suite struct ProcessSettingsTests {
    @Test func `as many descriptors as may be`() {
        let limit = HostSupport.Process.raiseDescriptorLimit()
        #expect(limit >= 256)
        #expect(HostSupport.Process.raiseDescriptorLimit() == limit)
    }

    #if os(Linux)
    @Test func `no core dump, to a file or through a pipe`() {
        HostSupport.Process.forbidCoreDumps()
        var limit = rlimit()
        #expect(getrlimit(ResourceLimit.coreFile, &limit) == 0)
        #expect(limit.rlim_cur <= 1 && limit.rlim_max <= 1)
    }
    #endif
}
