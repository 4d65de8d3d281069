import NIOCore
import Testing

@testable import Diversion

struct KernelFlowTimesTests {
    @Test func secondsAsTheKernelWritesThem() {
        #expect(KernelFlowTimes.seconds("120\n") == .seconds(120))
        #expect(KernelFlowTimes.seconds("2147483647\n") == .seconds(2_147_483_647))
        for text in ["", "\n", "0\n", "-1\n", "2147483648\n", "99999999999999999999\n", "12x\n", "x"] {
            #expect(KernelFlowTimes.seconds(text) == nil, "\(text)")
        }
    }
}
